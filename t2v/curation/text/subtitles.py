"""Subtitles as authors of captions: the part of them that is said in the time of a shot."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from t2v.curation.text.clean import sentences
from t2v.curation.text.selection import Candidate
from t2v.errors import UserError
from t2v.footage.containers import Unreadable
from t2v.footage.subtitles import FORMATS, Cue, Track, read_cues, read_tracks
from t2v.io.manifest import Clip
from t2v.io.text_files import read_text

AUTHOR = "subtitles"
LONGEST_FILE = 2**23  # bytes of x.srt: words of a day with their times


def subtitles(clip: Clip) -> list[Candidate]:
    """Return what each file of subtitles and each track says in the time of a clip.

    Files are `x.srt` and `x.vtt` beside `x.mp4`, or `x.en.srt`. One that cannot be read gives an
    empty candidate with the reason; one that is silent in this time gives none.
    """
    path, end = Path(clip.path), clip.end if clip.end is not None else float("inf")
    tracks = [_read(each) for each in subtitle_files(path)]
    try:
        tracks += read_tracks(path, clip.start, end)
    except UserError as error:
        fault = error.fault if isinstance(error, Unreadable) else str(error)
        tracks.append(Track("tracks", fault=fault))
    found = []
    for track in tracks:
        author, text = f"{AUTHOR} @ {track.name}", said(track.cues, clip.start, end)
        if track.fault:
            found.append(Candidate(author=author, text="", verdict=track.fault))
        elif text:
            found.append(Candidate(author=author, text=text))
    return found


def subtitle_files(path: Path) -> list[Path]:
    """Return the files of subtitles beside a film, by name."""
    found = path.parent.glob(f"{glob.escape(path.stem)}.*")
    return sorted(each for each in found if each.suffix.lower() in FORMATS and each.is_file())


def said(cues: Iterable[Cue], start: float, end: float) -> str:
    """Return the sentences that are said from `start` to `end`, in seconds.

    The words of a cue are said at an even pace, and a sentence belongs to the shot that holds its
    middle: every one to a single shot, and none is cut in two (cues with times are what Vid2Seq,
    arXiv 2302.14115, and HowToCaption, arXiv 2310.04900, learn from).
    """
    found = []
    for cue in cues:
        parts = [part for line in cue.text.splitlines() for part in sentences(line)]
        lengths = [max(1, len(part.split())) for part in parts]
        pace, before = (cue.end - cue.start) / sum(lengths), 0
        for part, length in zip(parts, lengths, strict=True):
            if start <= cue.start + pace * (before + length / 2) < end:
                found.append(part)
            before += length
    return " ".join(found)


def _read(path: Path) -> Track:
    try:
        facts = path.stat()
        return Track(path.name, _cues(path, facts.st_mtime_ns, facts.st_size))
    except (OSError, UserError) as error:
        return Track(path.name, fault=getattr(error, "fault", str(error)))


@lru_cache(maxsize=8)
def _cues(path: Path, written: int, size: int) -> tuple[Cue, ...]:
    """The cues of a file as it was when it was written: a film of many shots is read once."""
    return read_cues(read_text(path, most=LONGEST_FILE), path.suffix.lower())
