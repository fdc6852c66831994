"""Fingerprints of a collection on disk, beside it: each film is read once."""

from __future__ import annotations

import io
import json
import logging
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from t2v.curation.analyze import clip_id
from t2v.curation.copies.prints import COARSE, CROPS, SIZE
from t2v.curation.copies.reading import Piece, is_whole, read_pieces
from t2v.curation.copies.summaries import SPREAD, Summaries
from t2v.curation.journal import load_prints
from t2v.errors import UserError
from t2v.io import engine
from t2v.io.files import complete, digest, file_sha256, remove_partials
from t2v.io.manifest import Clip
from t2v.io.workers import Failure
from t2v.io.working_copies import at_hand

logger = logging.getLogger(__name__)

PRINTS = "prints"  # the folder beside a collection
RULES = 1  # raise it when the same film comes to have another fingerprint
SEGMENT = 256  # clips in a file, at most: a kill loses as many
LARGEST = 2**28  # bytes of an array in a file; a larger one is none of ours
ARRAYS = ("layouts", "owners", "changes", "lengths", "static")
OPEN = 64  # files that are held open
DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Part:
    """A piece of a clip of a collection, whose fingerprint waits on disk or in memory."""

    clip: Clip
    start: float
    end: float
    sha256: str  # of its file


@dataclass
class Collection:
    """The pieces of all clips that could be read, and the files that could not be, with why."""

    parts: list[Part]
    summaries: Summaries
    places: list[tuple[_Segment, int]]
    unread: dict[str, str]

    def pictures(self, number: int) -> np.ndarray:
        """The fingerprint of a piece, `t h w` uint8."""
        segment, place = self.places[number]
        return segment.pictures(place)


@dataclass
class _Segment:
    """Some clips with their fingerprints, in a file or, before there is one, in memory."""

    clips: dict[str, list[tuple[float, float]]]  # the spans of a clip's pieces, by its key
    files: dict[str, tuple[int, int, str]]  # size, time of change and hash by path
    summaries: Summaries
    kept: Path | list[np.ndarray]
    first: dict[str, int] = field(default_factory=dict)  # the number of a clip's first piece

    def __post_init__(self) -> None:
        number = 0
        for key, spans in self.clips.items():
            self.first[key] = number
            number += len(spans)

    def pictures(self, number: int) -> np.ndarray:
        """The fingerprint of a piece.

        Raises:
            UserError: the file was damaged.
        """
        if not isinstance(self.kept, Path):
            return self.kept[number]
        try:
            return _checked(_array(_opened(self.kept), f"p{number}"), np.uint8, 3, SIZE[::-1])
        except DAMAGE as error:
            raise UserError(
                f"{self.kept} is damaged ({error}). Remove it and run the command again: its clips "
                "are read anew."
            ) from error


def collect(
    clips: Sequence[Clip],
    folder: Path | None,
    config: engine.FileSettings,
    curated: Path | None = None,
) -> Collection:
    """Return the fingerprints of clips; what `folder` lacks is read from their files and kept.

    A file counts as known by its bytes, wherever it lies. Two processes may fill one folder: each
    writes files of its own, whole or not at all. A damaged one is removed and its clips read again.

    Args:
        clips: those of a manifest that are to be used.
        folder: of the fingerprints; None: they stay in memory.
        curated: an output of `t2v curate`, which has fingerprints of its own.

    Raises:
        UserError: the folder cannot be written.
    """
    segments = _load_all(folder) if folder else []
    known = {path: facts for each in segments for path, facts in each.files.items()}
    by_file = {path: tuple(some) for path, some in groupby(clips, key=lambda clip: clip.path)}
    files: dict[str, tuple[int, int, str]] = {}
    unread: dict[str, str] = {}
    for path in by_file:
        try:
            files[path] = _facts(Path(path), known.get(path))
        except (OSError, ValueError, UserError) as error:
            unread[path] = str(getattr(error, "strerror", None) or error)
    owners = {key: each for each in segments for key in each.clips}
    keys = [_key(clip, files[clip.path][2]) if clip.path in files else "" for clip in clips]
    new = [clip for clip, key in zip(clips, keys, strict=True) if key and key not in owners]
    told = {path: facts for path, facts in files.items() if known.get(path) != facts}
    for segment in _read(new, files, told, unread, folder, config, curated):
        owners |= dict.fromkeys(segment.clips, segment)
    return _collection(clips, keys, owners, files, unread)


def _collection(
    clips: Sequence[Clip],
    keys: Sequence[str],
    owners: dict[str, _Segment],
    files: dict[str, tuple[int, int, str]],
    unread: dict[str, str],
) -> Collection:
    parts: list[Part] = []
    places: list[tuple[_Segment, int]] = []
    chosen: dict[int, list[int]] = {}
    sources: dict[int, _Segment] = {}
    order: list[tuple[int, int]] = []
    for clip, key in zip(clips, keys, strict=True):
        if (segment := owners.get(key)) is None:
            continue
        for number, (start, end) in enumerate(segment.clips[key], start=segment.first[key]):
            parts.append(Part(clip, start, end, files[clip.path][2]))
            places.append((segment, number))
            sources[id(segment)] = segment
            some = chosen.setdefault(id(segment), [])
            order.append((id(segment), len(some)))
            some.append(number)
    joined = Summaries.joined(
        [sources[each].summaries.taken(np.array(some)) for each, some in chosen.items()]
    )
    before = dict(zip(chosen, np.cumsum([0, *map(len, chosen.values())]).tolist(), strict=False))
    at = np.array([before[each] + number for each, number in order], int)
    return Collection(parts, joined.taken(at), places, unread)


def memory_collection(parts: list[Part], prints: list[np.ndarray]) -> Collection:
    """Return the collection of fingerprints that are at hand, `t h w` uint8 each."""
    segment = _Segment({}, {}, Summaries.of(prints), prints)
    return Collection(parts, segment.summaries, [(segment, i) for i in range(len(prints))], {})


def _key(clip: Clip, sha256: str) -> str:
    where = "whole" if is_whole(clip) else (clip.start, clip.end, clip.extra.get("crop"))
    return digest(RULES, sha256, where, clip.extra.get("index") if clip.is_rendered else None)


def _facts(path: Path, known: tuple[int, int, str] | None) -> tuple[int, int, str]:
    """Size, time of change and hash of a file, which is not read again where it is as it was."""
    facts = at_hand(path).stat()
    now = facts.st_size, facts.st_mtime_ns
    if not path.is_file():
        raise UserError("it is no file")
    return known if known and known[:2] == now else (*now, file_sha256(path))


def _read(
    clips: Sequence[Clip],
    files: dict[str, tuple[int, int, str]],
    told: dict[str, tuple[int, int, str]],
    unread: dict[str, str],
    folder: Path | None,
    config: engine.FileSettings,
    curated: Path | None,
) -> Iterator[_Segment]:
    """Read the clips of each file, in processes, and keep them a segment at a time."""
    groups = [tuple(some) for _, some in groupby(clips, key=lambda clip: clip.path)]
    groups = [some[at : at + SEGMENT] for some in groups for at in range(0, len(some), SEGMENT)]
    found: dict[str, list[Piece]] = {}
    for some, result in _results(groups, files, config, curated):
        if isinstance(result, Failure):
            unread[some[0].path] = result.reason
            continue
        for clip, pieces in zip(some, result, strict=True):
            found[_key(clip, files[clip.path][2])] = pieces
        if len(found) >= SEGMENT:
            yield _segment(found, told, folder)
            found, told = {}, {}
    if found or (told and folder):
        yield _segment(found, told, folder)


def _results(
    groups: Sequence[tuple[Clip, ...]],
    files: dict[str, tuple[int, int, str]],
    config: engine.FileSettings,
    curated: Path | None,
) -> Iterator[tuple[tuple[Clip, ...], list[list[Piece]] | Failure]]:
    todo = []
    for some in groups:
        pieces = _journaled(some, files[some[0].path][2], curated) if curated else None
        if pieces is None:
            todo.append(some)
        else:
            yield some, pieces
    for number, result in engine.run("fingerprint", "files", read_pieces, todo, config):
        yield todo[number], result


def _journaled(clips: Sequence[Clip], sha256: str, curated: Path) -> list[list[Piece]] | None:
    """The fingerprints that curation left of just these spans of just this file; None: not all."""
    found = []
    for clip in clips:
        name = clip_id(replace(clip, sha256=sha256))
        if clip.end is None or clip.extra.get("id") != name:
            return None
        try:
            pictures = _checked(load_prints(curated, clip), np.uint8, 3, SIZE[::-1])
        except DAMAGE:
            return None
        found.append([Piece(clip.start, clip.end, pictures)])
    return found


def _segment(
    found: dict[str, list[Piece]], files: dict[str, tuple[int, int, str]], folder: Path | None
) -> _Segment:
    pieces = [piece for each in found.values() for piece in each]
    spans = {key: [(piece.start, piece.end) for piece in each] for key, each in found.items()}
    summaries = Summaries.of(piece.pictures for piece in pieces)
    prints = [piece.pictures for piece in pieces]
    if folder is None:
        return _Segment(spans, dict(files), summaries, prints)
    rows = {"rules": RULES, "clips": spans, "files": files}
    arrays = {name: getattr(summaries, name) for name in ARRAYS}
    arrays |= {f"p{number}": each for number, each in enumerate(prints)}
    arrays["rows"] = np.frombuffer(json.dumps(rows).encode(), np.uint8)
    path = folder / f"{digest(rows)}.npz"
    _write(path, arrays)
    return _Segment(spans, dict(files), summaries, path)


def _write(path: Path, arrays: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        with complete(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise UserError(
            f"{path.parent}: fingerprints cannot be written there ({error.strerror}). Give "
            "index=FOLDER, one that can be."
        ) from error


def _load_all(folder: Path) -> list[_Segment]:
    if not folder.is_dir():
        return []
    remove_partials(folder)
    found = []
    for path in sorted(folder.glob("*.npz")):
        try:
            found.append(_load(path))
        except DAMAGE as error:
            logger.warning("%s is damaged (%s) and left out: its clips are read again", path, error)
    return found


@lru_cache(OPEN)
def _opened(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of an `.npz`, whose checksum the zip has; `np.load` would not look at it."""
    member = f"{name}.npy"
    if archive.getinfo(member).file_size > LARGEST:
        raise ValueError(f"the array {name} is too large")
    found: np.ndarray = np.lib.format.read_array(io.BytesIO(archive.read(member)))
    return found


def _load(path: Path) -> _Segment:
    with zipfile.ZipFile(path) as archive:
        rows = json.loads(_array(archive, "rows").tobytes())
        if rows["rules"] != RULES:
            return _Segment({}, {}, Summaries.of([]), [])
        arrays = {name: _array(archive, name) for name in ARRAYS}
    clips = {key: [(float(a), float(b)) for a, b in spans] for key, spans in rows["clips"].items()}
    files = {path: (int(a), int(b), str(c)) for path, (a, b, c) in rows["files"].items()}
    count = sum(map(len, clips.values()))
    summaries = Summaries(
        _checked(arrays["layouts"], np.float32, 3, (len(CROPS), len(SPREAD))),
        _checked(arrays["owners"], np.int64, 1, ()),
        _checked(arrays["changes"], np.float16, 2, (COARSE[0] * COARSE[1],)),
        _checked(arrays["lengths"], np.int64, 1, ()),
        _checked(arrays["static"], np.bool_, 1, ()),
    )
    owners, lengths = summaries.owners, summaries.lengths
    if (
        len(summaries.static) != count
        or len(lengths) != count
        or (lengths < 1).any()
        or lengths.sum() != len(summaries.changes)
        or not np.array_equal(np.unique(owners), np.arange(count))
        or (np.diff(owners) < 0).any()
        or len(owners) != len(summaries.layouts)
    ):
        raise ValueError("its arrays do not fit each other")
    return _Segment(clips, files, summaries, path)


def _checked(array: np.ndarray, kind: type, axes: int, ends: tuple[int, ...]) -> np.ndarray:
    """The array, if it has this kind and shape and holds finite numbers."""
    if array.dtype != kind or array.ndim != axes or array.shape[axes - len(ends) :] != ends:
        raise ValueError(f"an array of {array.dtype} and shape {array.shape} is none of ours")
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise ValueError("an array holds NaN or inf")
    return array
