"""The journal of a review: what people decided, one line an act, beside the manifest."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from t2v.errors import UserError
from t2v.io.files import Lines, turn
from t2v.io.text_files import check_file, is_text

logger = logging.getLogger(__name__)

Verdict = Literal["keep", "drop"]
Kind = Literal[Verdict, "caption"]
UNDO = "undo"
HEAD = {"journal": "review", "version": 1}  # the first line


class Outdated(UserError):
    """An undo by somebody who has not seen the last act."""


@dataclass(frozen=True)
class Act:
    """One decision, on one clip or several.

    Args:
        clips: their keys.
        captions: what `caption` writes, the first one the caption in use.
    """

    kind: Kind
    clips: tuple[str, ...]
    captions: tuple[str, ...] = ()


class Journal:
    """The acts of a review, on the disk and in memory; several processes may add to one file.

    Each line is an act, or undoes the last one that stands. A line that a kill tore does not count.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.acts: list[Act] = []  # those that stand
        self.count = 0  # of lines so far, undone acts and undoing among them
        self._verdicts: dict[str, list[Verdict]] = {}
        self._captions: dict[str, list[tuple[str, ...]]] = {}
        self._read, self._file = 0, 0  # bytes, and the number of the file they are of

    def verdict(self, key: str) -> Verdict | None:
        """The decision on a clip that stands."""
        found = self._verdicts.get(key)
        return found[-1] if found else None

    def captions(self, key: str) -> tuple[str, ...]:
        """The captions that were written for a clip; none where its own stand."""
        found = self._captions.get(key)
        return found[-1] if found else ()

    def touched(self) -> set[str]:
        """The keys of all clips that an act which stands is about."""
        return {key for found in (self._verdicts, self._captions) for key in found if found[key]}

    def catch_up(self) -> set[str]:
        """Read what was added since the last look; return the keys of clips that it is about.

        Raises:
            UserError: the journal cannot be read, or is of a later version.
        """
        if not self.path.is_symlink() and not self.path.exists():
            gone = self.touched()
            self._forget()
            return gone
        self._refuse_others()
        try:
            with self.path.open("rb") as file:
                about = self.path.stat()
                is_same = about.st_ino == self._file and about.st_size >= self._read
                changed = set() if is_same else self.touched()
                if not is_same:
                    self._forget()
                file.seek(self._read)
                data = file.read()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}).") from error
        whole = data[: data.rfind(b"\n") + 1]  # what follows is torn, or about to be written
        for line in whole.split(b"\n"):
            changed |= self._take(line)
        self._read, self._file = self._read + len(whole), about.st_ino
        return changed

    def add(self, act: Act | None, count: int | None = None) -> set[str]:
        """Write an act, or undo the last one; it is on the disk when this returns.

        Args:
            act: None: undo.
            count: the lines that who undoes has seen.

        Returns:
            The keys of the clips that changed, by acts of others too.

        Raises:
            Outdated: somebody else acted since.
            UserError: there is nothing to undo, or the journal cannot be written.
        """
        try:
            with turn(self.path.with_name(f".{self.path.name}.lock")):
                changed = self.catch_up()
                if act is None:
                    self._check_undo(count)
                with Lines(self.path) as file:
                    if not self._read:
                        file.add(HEAD)
                    file.add(_row(act))
                return changed | self.catch_up()
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}), so the decision is not kept. "
                "Make room or give permission there, then decide again."
            ) from error

    def _check_undo(self, count: int | None) -> None:
        if count is not None and count != self.count:
            raise Outdated(
                "Somebody else decided something since this page was shown, and undo would take "
                "that back. Load the page again, then undo."
            )
        if not self.acts:
            raise UserError("There is nothing to undo.")

    def _refuse_others(self) -> None:
        if self.path.is_symlink():
            raise UserError(
                f"{self.path}: is a link, and what it leads to is not written. Replace it by the "
                "file itself, or remove it."
            )
        check_file(self.path, str(self.path))

    def _take(self, line: bytes) -> set[str]:
        row = _parsed(line)
        if row.get("journal") == HEAD["journal"]:
            if row.get("version") != HEAD["version"]:
                raise UserError(
                    f"{self.path}: is of version {row.get('version')!r}, and this t2v reads "
                    f"version {HEAD['version']}. Update t2v."
                )
            return set()
        if row.get("act") == UNDO:
            self.count += 1
            return self._undo()
        act = _act_of(row)
        if act is None:
            if line.strip(b"\0\r \t"):
                logger.warning("%s: a damaged line is left out", self.path)
            return set()
        self.count += 1
        self.acts.append(act)
        for key in act.clips:
            if act.kind == "caption":
                self._captions.setdefault(key, []).append(act.captions)
            else:
                self._verdicts.setdefault(key, []).append(act.kind)
        return set(act.clips)

    def _undo(self) -> set[str]:
        if not self.acts:
            return set()
        act = self.acts.pop()
        for key in act.clips:
            (self._captions if act.kind == "caption" else self._verdicts)[key].pop()
        return set(act.clips)


def _row(act: Act | None) -> dict[str, Any]:
    now = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    if act is None:
        return {"act": UNDO} | now
    row = {"act": act.kind, "clips": list(act.clips)} | now
    return row | {"captions": list(act.captions)} if act.kind == "caption" else row


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.strip(b"\0\r \t"))
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _act_of(row: dict[str, Any]) -> Act | None:
    kind: Any = row.get("act")
    clips, captions = row.get("clips"), row.get("captions", [])
    is_sound = kind in get_args(Kind) and _are_texts(clips) and _are_texts(captions)
    if not is_sound or not clips or bool(captions) != (kind == "caption"):
        return None
    return Act(kind, tuple(dict.fromkeys(clips)), tuple(captions))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))
