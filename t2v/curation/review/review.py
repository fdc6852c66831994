"""`Review`: the clips of a manifest, what was decided on them by hand, and pages of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2v.curation.review.index import Counts, Index, Shown, keys_of
from t2v.curation.review.journal import Act, Journal, Verdict
from t2v.curation.review.result import LONGEST, Written, decided, write_reviewed
from t2v.errors import UserError
from t2v.io.manifest import Clip, manifest_of, read_manifest
from t2v.io.model_card import REVIEWED
from t2v.io.text_files import is_text

MOST_CAPTIONS = 50  # of a clip


@dataclass(frozen=True)
class Page:
    """Some of the clips in an order.

    Args:
        first: the number of the first one among those that are shown, from 1; 0: there is none.
        total: those that are shown on all pages.
        before, after: where the pages before and after begin; None: there is none.
    """

    clips: list[Shown]
    first: int
    total: int
    before: int | None
    after: int | None


class Review:
    """A manifest, or a folder with one or of media files, and the review of it by hand.

    The manifest stays as it is. `NAME.review.jsonl` beside it is the journal, and
    `NAME.reviewed.jsonl` what `write` writes. Decisions belong to clips, by file and span: they
    stand when the manifest is made anew. Threads and processes may share one.

    Raises:
        UserError: the manifest cannot be read, see `read_manifest`.
    """

    def __init__(self, data: str | Path) -> None:
        self.data, self.manifest = Path(data), manifest_of(data)
        self.journal = Journal(self.manifest.with_name(f"{self.manifest.stem}.review.jsonl"))
        self.target = self.manifest.with_name(f"{self.manifest.stem}{REVIEWED}")
        self._lock = threading.RLock()
        self._version: tuple[int, ...] | None = None
        self.counts()

    def counts(self) -> Counts:
        """The counts as they are now."""
        with self._current():
            return self._index.counts()

    def strays(self) -> int:
        """The clips that were decided on and are in the manifest no more."""
        with self._current():
            return len(self.journal.touched() - self._places.keys())

    def scores(self) -> list[str]:
        """The names that clips can be ordered by."""
        with self._current():
            return self._index.scores

    def page(self, show: str, sort: str, start: int, size: int) -> Page:
        """Clips from a place in the order on.

        Args:
            show: one of `Show`.
            sort: a score, with a leading `-` the highest first; empty: as the manifest has them.
            start: of `Page.before` or `Page.after`; 0: the beginning.

        Raises:
            UserError: no such order or filter.
        """
        with self._current():
            order = self._index.order(sort)
            found = np.flatnonzero(self._index.shown(show)[order])
            at = int(np.searchsorted(found, start))
            if at == len(found):
                at = max(0, (len(found) - 1) // size * size)
            here = [self._at(int(each)) for each in order[found[at : at + size]]]
            more = at + size < len(found)
            return Page(
                clips=here,
                first=at + 1 if here else 0,
                total=len(found),
                before=int(found[max(0, at - size)]) if at else None,
                after=int(found[at + size]) if more else None,
            )

    def get(self, key: str) -> Shown:
        """A clip by its key.

        Raises:
            UserError: the manifest has none of this key.
        """
        with self._current():
            return self._at(self._place(key))

    def decide(self, kind: Verdict, keys: Sequence[str]) -> list[Shown]:
        """Keep or drop clips; return those that changed, by acts of others too.

        Raises:
            UserError: no such clip, or the journal cannot be written.
        """
        with self._current():
            for key in keys:
                self._place(key)
            if not keys:
                raise UserError("No clip was named. Name one at least.")
            return self._changed(self.journal.add(Act(kind, tuple(dict.fromkeys(keys)))))

    def write_captions(self, key: str, text: str) -> list[Shown]:
        """Replace the captions of a clip, one a line, the first one the caption in use.

        Raises:
            UserError: no such clip, no caption, one that is no text or too long, or the journal
                cannot be written.
        """
        captions = _captions_of(text)
        with self._current():
            shown = self._at(self._place(key))
            if captions == _lines_of(caption_text(shown.now)):
                return [shown]
            return self._changed(self.journal.add(Act("caption", (key,), captions)))

    def undo(self, count: int | None = None) -> list[Shown]:
        """Take the last act that stands back; return the clips that changed.

        Args:
            count: the lines of the journal that who undoes has seen.

        Raises:
            Outdated: somebody else acted since.
            UserError: there is nothing to undo, or the journal cannot be written.
        """
        with self._current():
            return self._changed(self.journal.add(None, count))

    def write(self) -> Written:
        """Write the reviewed manifest and its data card.

        Raises:
            UserError: they cannot be written.
        """
        with self._current():
            before, count = self.clips, self.journal.count
            clips = [self._decided(place) for place in range(len(before))]
        try:
            return write_reviewed(self.manifest, before, clips, self.target, count)
        except OSError as error:
            raise UserError(
                f"{self.target}: cannot be written ({error.strerror}). Make room or give "
                "permission there, then write it again: no decision is lost."
            ) from error

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Hold the clips, as manifest and journal have them now."""
        with self._lock:
            version = _version(self.manifest)
            if version != self._version:
                self._load()
                self._version = version
            else:
                self._update(self.journal.catch_up())
            yield

    def _load(self) -> None:
        self.clips = read_manifest(self.data)
        self.keys = keys_of(self.clips, self.manifest.parent)
        self._places = {key: place for place, key in enumerate(self.keys)}
        self._index = Index(self.clips)
        self.journal.catch_up()
        self._update(self.journal.touched())

    def _update(self, keys: set[str]) -> None:
        for key in keys & self._places.keys():
            self._index.update(self._at(self._places[key]))

    def _changed(self, keys: set[str]) -> list[Shown]:
        self._update(keys)
        places = sorted(self._places[key] for key in keys & self._places.keys())
        return [self._at(place) for place in places]

    def _place(self, key: str) -> int:
        if key not in self._places:
            raise UserError(
                "The manifest has no such clip any more. Load the page again: it was made anew."
            )
        return self._places[key]

    def _decided(self, place: int) -> Clip:
        key = self.keys[place]
        return decided(self.clips[place], self.journal.verdict(key), self.journal.captions(key))

    def _at(self, place: int) -> Shown:
        key = self.keys[place]
        now = self._decided(place)
        return Shown(key, place + 1, self.clips[place], now, self.journal.verdict(key))


def caption_text(clip: Clip) -> str:
    """The captions of a clip as people edit them, one a line."""
    return "\n".join(clip.texts()).encode(errors="replace").decode()


def _lines_of(text: str) -> tuple[str, ...]:
    lines = (" ".join(line.split()) for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in lines if line))


def _captions_of(text: str) -> tuple[str, ...]:
    if not is_text(text):
        raise UserError("The caption holds a zero byte or half of a character. Type it anew.")
    captions = _lines_of(text)
    if not captions:
        raise UserError(
            "The caption is empty, and training leaves out clips without one. Write one, or drop "
            "the clip."
        )
    if len(captions) > MOST_CAPTIONS or max(map(len, captions)) > LONGEST:
        raise UserError(
            f"{len(captions)} captions, the longest of {max(map(len, captions)):,} characters: at "
            f"most {MOST_CAPTIONS} of {LONGEST:,} are taken. Shorten them."
        )
    return captions


def _version(manifest: Path) -> tuple[int, ...]:
    """A mark that changes when the manifest does; that of a folder of media never does."""
    try:
        about = manifest.stat()
    except OSError:  # `read_manifest` says what is wrong
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns
