"""Subtitles with their times: of a file beside a film, or of the tracks inside it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from t2v.footage.containers import opened, opened_text

FORMATS = {".srt": "srt", ".vtt": "webvtt"}  # what FFmpeg calls them
OF_PICTURES = ("hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle", "xsub", "dvb_teletext")
LONGEST_CUE = 30.0  # seconds: how far before a span is looked for a text that lasts into it
MOST_CUES = 100_000  # of a file or track; a word each is a film of many hours
TAG = re.compile(r"\{\\[^}]*\}|</?[a-zA-Z][^<>]*>|<\d[\d:.]*>")  # of ASS, of HTML, times of words
NOISE = re.compile(r"\[[^\]]*\]|\([^)]*\)|[♪♫][^♪♫]*[♪♫]?")  # [door slams], (laughs), songs
ARROW = "-->"  # in a text: the times of a broken cue


@dataclass(frozen=True)
class Cue:
    """A text on screen from `start` to `end`, in seconds from the first frame of the film."""

    start: float
    end: float
    text: str  # one line a line


@dataclass(frozen=True)
class Track:
    """Subtitles by one hand; `fault` is the reason where they cannot be read."""

    name: str
    cues: tuple[Cue, ...] = ()
    fault: str = ""


def read_cues(text: str, suffix: str) -> tuple[Cue, ...]:
    """Return the cues of a text in the format of a suffix, a key of `FORMATS`, in order of time.

    Tags, sounds in brackets and lines that the cue before has shown go; so do cues without text,
    and those whose times are broken.

    Raises:
        Unreadable: it is not in that format.
    """
    with opened_text(text, FORMATS[suffix]) as container:
        return _cleaned(_decoded(container, container.streams.subtitles))


def read_tracks(path: Path, start: float, end: float) -> list[Track]:
    """Return the tracks of subtitles in a film, with what is shown from `start` to `end`, seconds.

    Raises:
        Unreadable, UserError: see `opened`.
    """
    with opened(path) as container:
        streams = list(container.streams.subtitles)
        if not streams:
            return []
        video = next(iter(container.streams.video), None)
        zero = 0.0
        if video is not None and video.start_time is not None:
            zero = float(video.start_time * video.time_base)
        names = {each.index: _name(number, each) for number, each in enumerate(streams, 1)}
        found: dict[int, list[Cue]] = {index: [] for index in names}
        faults: dict[int, str] = {}
        container.seek(max(0, int((zero + start - LONGEST_CUE) * av.time_base)))
        try:
            for index, cue in _until(container, video, streams, zero, end, faults):
                found[index].append(cue)
        except (av.FFmpegError, ValueError) as error:
            faults |= dict.fromkeys(found, f"its subtitles cannot be read ({error})")
    return [
        Track(name, _cleaned(iter(found[index])), faults.get(index, ""))
        for index, name in names.items()
    ]


def _until(
    container: Any, video: Any, streams: list[Any], zero: float, end: float, faults: dict[int, str]
) -> Iterator[tuple[int, Cue]]:
    """The cues that begin before `end`, each with the index of its stream.

    Pictures are read past, not decoded: without them a track that is silent would be followed to
    the end of the file.
    """
    kinds = {each.index: each.codec_context.name for each in streams}
    faults |= {
        index: f"its subtitles are pictures ({kind})"
        for index, kind in kinds.items()
        if kind in OF_PICTURES
    }
    watched = streams if video is None else [video, *streams]
    for packet in container.demux(watched):
        if packet.pts is None:
            continue
        time = float(packet.pts * packet.time_base) - zero
        is_video = packet.stream.type == "video"
        if time > end + (LONGEST_CUE if is_video else 0) or (is_video and time > end + 1):
            return
        if is_video or packet.stream.index in faults:
            continue
        for text in _texts(packet):
            yield packet.stream.index, Cue(time, time + _duration(packet), text)


def _decoded(container: Any, streams: Any) -> Iterator[Cue]:
    packets = container.demux(*streams)
    with suppress(av.FFmpegError, ValueError):  # what stands before the damage counts
        for number, packet in enumerate(packets):
            if packet.pts is not None and number < MOST_CUES:
                time = float(packet.pts * packet.time_base)
                for text in _texts(packet):
                    yield Cue(time, time + _duration(packet), text)


def _duration(packet: Any) -> float:
    return float((packet.duration or 0) * packet.time_base)


def _texts(packet: Any) -> Iterator[str]:
    for found in packet.decode():
        for rect in getattr(found, "rects", [found]):
            dialogue = getattr(rect, "dialogue", b"")
            yield dialogue.decode("utf-8", errors="replace")


def _name(number: int, stream: Any) -> str:
    language = stream.metadata.get("language", "")
    return f"track {number}" + (f" {language}" if language else "")


def _cleaned(cues: Iterator[Cue]) -> tuple[Cue, ...]:
    found: list[Cue] = []
    before: list[str] = []
    for cue in sorted(cues, key=lambda each: (each.start, each.end)):
        lines = _lines(cue.text)
        # live captions roll: each shows the last line again above the new one
        own = [line for line in lines if line not in before]
        before = lines or before
        if own and cue.end > cue.start and not any(ARROW in line for line in own):
            found.append(Cue(cue.start, cue.end, "\n".join(own)))
    return tuple(found)


def _lines(text: str) -> list[str]:
    plain = NOISE.sub(" ", html.unescape(TAG.sub("", text)).replace("\\N", "\n"))
    lines = (" ".join(line.split()).removeprefix("- ") for line in plain.splitlines())
    return [line for line in lines if any(each.isalnum() for each in line)]
