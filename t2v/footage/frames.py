"""Frames of any video, one after the other: upright, with square pixels, by their timestamps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from t2v.errors import UserError
from t2v.footage.clock import Timeline, survey, timed
from t2v.footage.containers import opened, video_stream
from t2v.footage.filters import OneSize, opaque, progressive
from t2v.footage.picture import Converters, Picture, Shape, is_full, sane, shape_of

_TRANSFER = {16: "pq", 18: "hlg"}  # ITU-T H.273: what marks HDR
_SLACK = 1e-4  # seconds: times in a manifest are rounded


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The facts of a file, by its headers, its packets and its first frame.

    `width` and `height` are as shown: upright, with square pixels. `duration` and `num_frames`
    count the packets that are shown, not what a header claims; `declared_frames` is the claim (0:
    none made).
    """

    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    coded_width: int
    coded_height: int
    rotation: int  # degrees counter-clockwise from stored to shown: 0, 90, 180 or 270
    mirrored: bool  # left and right are swapped, before turning
    sample_aspect: Fraction  # width of a stored pixel by its height
    fps: float  # frames over duration
    vfr: bool  # more than 1 % of the frames last much longer or shorter than the others
    bit_depth: int
    full_range: bool
    hdr: str  # "pq", "hlg" or "" for ordinary footage
    interlaced: bool
    duration: float  # seconds, the last frame's own included
    num_frames: int
    stored_frames: int  # those that an edit list hides too
    declared_frames: int
    clock_jumps: int  # number of times that the timestamps jumped or stood still
    is_clocked: bool  # the timestamps are those of display, from the first to the last
    video_streams: int
    audio_streams: int


def probe(path: str | Path) -> Probe:
    """Read the facts of a file, decoding one frame of it.

    Raises:
        Unreadable: it is empty, no video, without a video stream, a cover picture of a sound
            file, or nothing in it decodes.
        UserError: there is no such file, or it may not be read.
    """
    return _facts_of(Path(path)).probe


class _Facts(NamedTuple):
    probe: Probe
    timeline: Timeline
    shape: Shape


def _facts_of(path: Path) -> _Facts:
    try:
        facts = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}).") from error
    return _known(path.absolute(), facts.st_ino, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=8)  # a reader has mostly asked for the facts a moment before
def _known(path: Path, *_: int) -> _Facts:
    with opened(path) as container:
        stream = video_stream(path, container)
        frame, timeline, stored = survey(path, container, stream)
        shape, times = shape_of(stream, frame), timeline.times
        uneven = np.abs(np.diff(times) - timeline.usual) > 0.25 * timeline.usual
        found = Probe(
            container=container.format.name,
            codec=stream.codec_context.name,
            pixel_format=frame.format.name,
            width=shape.width,
            height=shape.height,
            coded_width=frame.width,
            coded_height=frame.height,
            rotation=shape.turns * 90,
            mirrored=shape.is_mirrored,
            sample_aspect=shape.aspect,
            fps=len(times) / timeline.duration,
            vfr=len(uneven) > 0 and float(uneven.mean()) > 0.01,
            bit_depth=max(each.bits for each in frame.format.components),
            full_range=is_full(frame),
            hdr=_TRANSFER.get(int(frame.color_trc), ""),
            interlaced=bool(frame.interlaced_frame),
            duration=timeline.duration,
            num_frames=len(times),
            stored_frames=stored,
            declared_frames=stream.frames,
            clock_jumps=timeline.jumps,
            is_clocked=timeline.is_sound,
            video_streams=len(container.streams.video),
            audio_streams=len(container.streams.audio),
        )
    return _Facts(found, timeline, shape)


def iter_frames(
    path: str | Path,
    start: float = 0.0,
    end: float | None = None,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    deinterlace: bool = True,
) -> Iterator[tuple[float, np.ndarray]]:
    """The frames shown from `start` to before `end`, one after the other, with their times.

    Args:
        path: any video file.
        start: seconds on the file's own clock, from its first frame.
        end: seconds; None for the end of the file.
        fps: None for every frame as it is; else the frame on screen at each `start + k / fps`,
            so that variable rates come out at the right speed.
        size: height and width to scale and centre-crop to; None as shown.
        crop: `left, top, width, height` in pixels as shown, cut out before scaling.
        deinterlace: frames that hold the lines of two moments become frames of one.

    Yields:
        The time in seconds and the frame, `h w c` uint8 RGB: upright, square pixels, 8 bits,
        full range, on white where it is transparent, all of the first one's size. Every frame
        that decodes, at times that advance.

    Raises:
        Unreadable: as for `probe`, or decoding stops in the middle (what was good came before).
        UserError: there is no such file, or the span or crop is not inside the picture.
    """
    for time, picture in iter_shown(Path(path), start, end, fps=fps, deinterlace=deinterlace):
        yield time, picture.rgb(size, crop)


def iter_shown(
    path: Path,
    start: float = 0.0,
    end: float | None = None,
    *,
    fps: float | None = None,
    deinterlace: bool = True,
) -> Iterator[tuple[float, Picture]]:
    """The times and frames of `iter_frames`, not yet converted; raises what it does."""
    if start < 0 or (end is not None and end <= start):
        raise UserError(f"{path}: start={start} end={end}: give 0 <= start < end.")
    pictures = iter_pictures(path, start, deinterlace=deinterlace)
    if fps is not None:
        stop = _facts_of(path).timeline.duration
        pictures = _at_rate(pictures, start, min(end or stop, stop), fps)
    for time, picture in pictures:
        if end is not None and time >= end - _SLACK:
            return
        if time >= start - _SLACK or fps is not None:
            yield time, picture


def iter_pictures(
    path: Path, start: float = 0.0, *, deinterlace: bool = True
) -> Iterator[tuple[float, Picture]]:
    """Times and frames not yet converted, from the key frame at or before `start` on.

    Raises what `iter_frames` does.
    """
    facts = _facts_of(path)
    if start > 0 and facts.timeline.is_sound:
        # a deinterlacer looks at the frame before, and one more is on the safe side
        early = start - (2 * facts.timeline.usual if facts.probe.interlaced else 0.0)
        sought = _pictures(path, facts, max(0.0, early), deinterlace)
        first = next(sought, None)
        if first is not None and first[0] <= max(0.0, early) + _SLACK:  # else it cannot seek
            yield from chain([first], sought)
            return
    yield from _pictures(path, facts, 0.0, deinterlace)


def _pictures(
    path: Path, facts: _Facts, start: float, deinterlace: bool
) -> Iterator[tuple[float, Picture]]:
    shape = facts.shape
    converters: Converters = {}
    one_size = OneSize(shape.stored, shape.aspect)
    with opened(path) as container:
        stream = video_stream(path, container)
        if start > 0:
            try:
                container.seek(facts.timeline.zero + int(start / stream.time_base), stream=stream)
            except av.FFmpegError:
                return
        frames = timed(path, stream, facts.timeline, sought=start > 0)
        for time, frame in progressive(frames) if deinterlace else frames:
            is_resized = (frame.height, frame.width) != shape.stored
            plain = opaque(frame)
            if is_resized:
                plain = one_size.fit(plain, sane(stream.codec_context.sample_aspect_ratio))
            damaged = bool(frame.is_corrupt)
            yield time, Picture(path, plain, shape, converters, is_resized, damaged)


def _at_rate(
    pictures: Iterator[tuple[float, Picture]], start: float, stop: float, fps: float
) -> Iterator[tuple[float, Picture]]:
    """The picture that is on screen at each `start + k / fps`, as often as it takes."""
    shown, wanted = None, 0
    slack = 1e-3 / fps  # timestamps are rounded to the ticks of their container
    for time, picture in pictures:
        while shown is not None and start + wanted / fps < min(time, stop) - slack:
            yield start + wanted / fps, shown
            wanted += 1
        if shown is not None and time >= stop - slack:
            return  # the rest of a long film need not be decoded
        shown = picture
    while shown is not None and start + wanted / fps < stop - slack:
        yield start + wanted / fps, shown
        wanted += 1
