"""The clips of a review by what they are: found, ordered and counted without a look at each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from t2v.curation.review.journal import Verdict
from t2v.errors import UserError, shortened
from t2v.io.files import digest
from t2v.io.manifest import Clip

Show = Literal["all", "undecided", "kept", "dropped", "edited"]
SECONDS = "seconds"  # beside the names of scores: the length
MOST_SCORES = 40  # that one can sort by, the commonest


@dataclass(frozen=True)
class Shown:
    """A clip as a page shows it.

    Args:
        number: its place in the manifest, from 1.
        came: as the manifest has it.
        now: as it was decided.
    """

    key: str
    number: int
    came: Clip
    now: Clip
    verdict: Verdict | None

    @property
    def is_edited(self) -> bool:
        """True where its captions were written by hand."""
        return self.came.texts() != self.now.texts()


@dataclass(frozen=True)
class Counts:
    """Numbers of clips: all, those with a verdict, and what training would get now."""

    all: int
    decided: int
    kept: int
    dropped: int
    edited: int

    @property
    def undecided(self) -> int:
        """Those without a verdict."""
        return self.all - self.decided


class Index:
    """Arrays of what was decided on each clip, and the orders that they were asked for in."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._clips, count = clips, len(clips)
        self._is_decided, self._is_edited = np.zeros(count, bool), np.zeros(count, bool)
        self._is_dropped = np.array([bool(clip.dropped) for clip in clips])
        found = Counter(name for clip in clips for name in clip.scores)
        self.scores = [SECONDS, *sorted(name for name, _ in found.most_common(MOST_SCORES))]
        self._orders: dict[str, np.ndarray] = {"": np.arange(count)}

    def update(self, shown: Shown) -> None:
        """Take over what was decided on a clip."""
        place = shown.number - 1
        self._is_decided[place] = shown.verdict is not None
        self._is_edited[place] = shown.is_edited
        self._is_dropped[place] = bool(shown.now.dropped)

    def counts(self) -> Counts:
        """The counts as they are now."""
        return Counts(
            all=len(self._clips),
            decided=int(np.count_nonzero(self._is_decided)),
            kept=int(np.count_nonzero(~self._is_dropped)),
            dropped=int(np.count_nonzero(self._is_dropped)),
            edited=int(np.count_nonzero(self._is_edited)),
        )

    def shown(self, show: str) -> np.ndarray:
        """The clips that a filter shows, as booleans.

        Raises:
            UserError: no such filter.
        """
        if show not in get_args(Show):
            raise UserError(f"show={shortened(show)}: give one of {', '.join(get_args(Show))}.")
        return {
            "all": np.ones(len(self._clips), bool),
            "undecided": ~self._is_decided,
            "kept": ~self._is_dropped,
            "dropped": self._is_dropped,
            "edited": self._is_edited,
        }[show]

    def order(self, sort: str) -> np.ndarray:
        """The places of all clips in an order; those without the score come last.

        Raises:
            UserError: no such score.
        """
        if sort in self._orders:
            return self._orders[sort]
        name = sort.removeprefix("-")
        if name not in self.scores:
            raise UserError(
                f"sort={shortened(sort)}: give one of {', '.join(self.scores)}, with a leading - "
                "for the highest first."
            )
        values = np.array([_score(clip, name) for clip in self._clips])
        found = np.argsort(-values if sort.startswith("-") else values, kind="stable")
        self._orders[sort] = found
        return found


def _score(clip: Clip, name: str) -> float:
    if name == SECONDS:
        return np.nan if clip.end is None else clip.end - clip.start
    return clip.scores.get(name, np.nan)


def _from(above: str, path: str) -> str:
    inside = path.startswith(f"{above}/")  # a plain one at that: manifests are read so
    return path[len(above) + 1 :] if inside else os.path.relpath(path, above)


def keys_of(clips: Sequence[Clip], folder: Path) -> list[str]:
    """A name for each clip that stays when the manifest is made anew: by its file and span.

    A file is known by its hash and name, where there is a hash, else by its path from the
    manifest. Clips that are equal in all of that are counted.

    Args:
        folder: of the manifest.
    """
    above, seen, keys = os.path.abspath(folder), Counter[str](), []  # noqa: PTH100  no links
    for clip in clips:
        name = Path(clip.path).name if clip.sha256 else _from(above, clip.path)
        key = digest(clip.sha256, name, clip.start, clip.end, repr(clip.extra.get("index")))
        seen[key] += 1
        keys.append(key if seen[key] == 1 else digest(key, seen[key]))
    return keys
