"""`t2v trace`: the clips of a collection that a film shows, or those two collections share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from t2v.config.trace import TraceConfig
from t2v.curation.copies.candidates import candidates
from t2v.curation.copies.index import PRINTS, Collection, Part, collect
from t2v.curation.copies.prints import Match, Print, faster
from t2v.curation.journal import WORK
from t2v.curation.shot import MOTION_RATE
from t2v.errors import UserError
from t2v.io import engine
from t2v.io.addresses import shown
from t2v.io.files import write_text
from t2v.io.manifest import VIDEO_SUFFIXES, Clip, manifest_of, read_manifest
from t2v.io.text_files import read_json

HELD = 512  # fingerprints in memory at a time
TOLD = 3  # files that could not be read, named in the answer


@dataclass(frozen=True)
class Found:
    """A part of ours that a part of theirs shows too.

    Args:
        ours, theirs: the parts.
        our_span, their_span: the seconds that both show, in the file of each.
        correlation: how alike they are, 0 to 1; `distance` is 1 less it.
        kind: how ours differs, in words.
    """

    ours: Part
    theirs: Part
    our_span: tuple[float, float]
    their_span: tuple[float, float]
    correlation: float
    kind: str

    def row(self) -> dict[str, Any]:
        """This match as JSON has it."""
        return {
            "video": shown(self.ours.clip.path),
            "video_span": self.our_span,
            "clip": shown(self.theirs.clip.path),
            "clip_span": self.their_span,
            "distance": round(1 - self.correlation, 4),
            "kind": self.kind,
            "caption": self.theirs.clip.caption,
        }


def trace(config: TraceConfig) -> str:
    """Look for a film, or for every clip of a collection, in a collection; return a table.

    Fingerprints of the collection are kept in `prints` beside it, those of a collection that is
    looked for beside that one. What is found is no error, nor is nothing.

    Raises:
        UserError: nothing can be read, fingerprints or `json` cannot be written, or `json` is a
            file of something else.
    """
    engine.require_engine(config)
    if config.json is not None:  # before films are read for an hour
        _refuse_to_replace(Path(config.json))
        Path(config.json).parent.mkdir(parents=True, exist_ok=True)
    theirs = collected(config.collection, "collection", config)
    ours = collected(config.video, "video", config)
    found = find(ours, theirs, config)
    if config.json is not None:
        rows = [each.row() for each in found]
        facts = {"video": shown(config.video), "collection": shown(config.collection)}
        settings = {"correlation": config.correlation, "overlap": config.overlap}
        told = facts | settings | _counts(found, ours, theirs) | {"matches": rows}
        write_text(Path(config.json), json.dumps(told, indent=1) + "\n")
    return "\n".join(_lines(found, ours, theirs, config))


def _refuse_to_replace(file: Path) -> None:
    """Raise `UserError` where a file lies that `t2v trace` did not write."""
    with suppress(UserError, TypeError):  # no JSON, or another
        if {"matches", "collection"} <= read_json(file).keys():
            return
    if file.exists():
        raise UserError(
            f"json={file} holds no matches of `t2v trace` and would be replaced. Name another file."
        )


def find(ours: Collection, theirs: Collection, config: TraceConfig) -> list[Found]:
    """Return the matches of two collections, the most alike first."""
    mine = lru_cache(HELD)(lambda a, speed: Print(faster(ours.pictures(a), speed)))
    other = lru_cache(HELD)(lambda b: Print(theirs.pictures(b)))
    speeds = [1 / each for each in config.speeds]
    pairs = candidates(ours.summaries, theirs.summaries, config.overlap, speeds)
    found = []
    for a, b, speed in pairs:
        # coarse pictures may mistake a crop or a trim for another speed
        matches = {each: mine(a, each).match(other(b), config.overlap) for each in {speed, 1.0}}
        speed = max(matches, key=lambda each: (matches[each].correlation, each == 1))
        if matches[speed].correlation >= config.correlation:
            length = len(mine(a, speed).light), len(other(b).light)
            found.append(_found(ours.parts[a], theirs.parts[b], matches[speed], speed, *length))
    return sorted(found, key=lambda each: (-each.correlation, each.theirs.clip.path, each.our_span))


def _found(ours: Part, theirs: Part, match: Match, speed: float, mine: int, other: int) -> Found:
    first, last = max(0, -match.offset), min(mine, other - match.offset)
    step = speed / MOTION_RATE  # seconds of ours from one picture to the next
    our_span = ours.start + first * step, min(ours.end, ours.start + last * step)
    their_first = theirs.start + (first + match.offset) / MOTION_RATE
    their_span = their_first, min(theirs.end, their_first + (last - first) / MOTION_RATE)
    words = [match.kind, "" if speed == 1 else f"{1 / speed:.3g} times as fast"]
    kind = ", ".join(filter(None, words))
    if ours.sha256 == theirs.sha256 and not kind:
        kind = "the same file"
    spans = [(round(a, 2), round(b, 2)) for a, b in (our_span, their_span)]
    return Found(ours, theirs, spans[0], spans[1], match.correlation, kind)


def collected(given: str, name: str, config: TraceConfig) -> Collection:
    """Return the fingerprints of a film, or of the clips of a manifest or folder that are kept.

    Args:
        name: of the setting that gave it, for messages.

    Raises:
        UserError: there is nothing to compare, or fingerprints cannot be written.
    """
    path = Path(given)
    if not path.exists():
        raise UserError(f"{name}={given}: there is no such file or folder.")
    is_film = path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES
    if is_film:
        found = collect([Clip(path=str(path.absolute()))], None, config)
    else:
        clips = [clip for clip in read_manifest(path) if not clip.dropped]
        clips = [clip for clip in clips if clip.is_rendered or _is_video(clip)]
        if not clips:
            raise UserError(f"{name}={given}: lists no videos that are kept. Name other clips.")
        beside = manifest_of(path).parent
        curated = beside if (beside / WORK).is_dir() else None
        index = Path(config.index) if config.index else beside / PRINTS
        found = collect(clips, index, config, curated)
    if not found.parts:
        reasons = "; ".join(_unread(found)) or "no shot of it is as long as a second"
        raise UserError(f"{name}={given}: nothing in it can be compared ({reasons}).")
    return found


def _is_video(clip: Clip) -> bool:
    return Path(clip.path).suffix.lower() in VIDEO_SUFFIXES


def _unread(collection: Collection) -> list[str]:
    some = list(collection.unread.items())[:TOLD]
    more = len(collection.unread) - len(some)
    told = [f"{shown(path)}: {reason}" for path, reason in some]
    return [*told, f"and {more} more"] if more else told


def _counts(
    found: Sequence[Found], ours: Collection, theirs: Collection
) -> dict[str, int | float | list[str]]:
    """The sums of a set of matches: clips, and seconds of film."""
    clips = {_clip(part) for part in ours.parts}
    copied = {_clip(each.ours) for each in found}
    total = sum(part.end - part.start for part in ours.parts)
    return {
        "clips": len(clips),
        "clips_found": len(copied),
        "collection_clips": len({_clip(part) for part in theirs.parts}),
        "collection_clips_found": len({_clip(each.theirs) for each in found}),
        "seconds": round(total, 2),
        "seconds_found": round(sum(map(_covered, _by_part(found).values())), 2),
        "unread": _unread(ours) + _unread(theirs),
    }


def _clip(part: Part) -> tuple[str, float, float | None, Any]:
    clip = part.clip
    return clip.path, clip.start, clip.end, clip.extra.get("index")


def _by_part(found: Sequence[Found]) -> dict[int, list[tuple[float, float]]]:
    spans: dict[int, list[tuple[float, float]]] = {}
    for each in found:
        spans.setdefault(id(each.ours), []).append(each.our_span)
    return spans


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """The seconds that some spans cover together."""
    total, until = 0.0, 0.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _lines(
    found: Sequence[Found], ours: Collection, theirs: Collection, config: TraceConfig
) -> list[str]:
    counts = _counts(found, ours, theirs)
    clips, copied = counts["clips"], counts["clips_found"]
    seconds, shared = counts["seconds"], counts["seconds_found"]
    assert isinstance(clips, int) and isinstance(copied, int)
    lines = []
    if found:
        lines += ["| film | its part, s | clip | its part, s | distance | kind |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        lines += [_line(each) for each in found[: config.rows]]
        if len(found) > config.rows:
            lines.append(f"\n{len(found) - config.rows} more matches; json=FILE has all.")
        lines.append("")
    if clips > 1:
        lines.append(f"{copied} of {clips} clips ({copied / clips:.2%}) have a copy there.")
    lines.append(
        f"{shared} of {seconds} s are in {counts['collection_clips_found']} of the "
        f"{counts['collection_clips']} clips there, at a distance of "
        f"{1 - config.correlation:.2f} or less."
    )
    if told := counts["unread"]:
        assert isinstance(told, list)
        lines.append(f"Could not be read: {'; '.join(told)}.")
    return lines


def _line(found: Found) -> str:
    spans = [f"{start:.1f}-{end:.1f}" for start, end in (found.our_span, found.their_span)]
    names = [Path(part.clip.path).name.replace("|", "\\|") for part in (found.ours, found.theirs)]
    kind = found.kind or "-"
    return (
        f"| {names[0]} | {spans[0]} | {names[1]} | {spans[1]} | {1 - found.correlation:.2f} | "
        f"{kind} |"
    )
