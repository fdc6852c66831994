"""Presentation times of frames: timestamps where they can be trusted, else the decoder's order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from t2v.footage.containers import Unreadable

# FFmpeg's AVFMT_TS_DISCONT: recordings of these are joined by `cat`, clock and all.
_JOINED = {"mpegts", "mpeg", "mpegvideo"}
_JUMP = 10.0  # seconds ahead from which their clock has jumped; FFmpeg's dts_delta_threshold
_STILL = 600.0  # elsewhere a picture may stay on screen, but hours are a damaged timestamp
_RATE = 25  # frames a second of a raw stream that names none; FFmpeg's default


@dataclass(frozen=True, eq=False)
class Timeline:
    """The presentation times of a video's frames, by its packets.

    Args:
        times: seconds from the first frame, ascending.
        step: seconds that a frame lasts where nothing else says so.
        usual: the median of the steps, in seconds.
        zero: timestamp of the first frame, in ticks.
        is_counted: timestamps are missing or not those of display, so the k-th frame of the
            decoder gets the k-th time.
        jumps: number of times that the clock jumped or stood still and was followed.
        limit: seconds ahead that count as a jump.
    """

    times: np.ndarray
    step: float
    usual: float
    zero: int
    is_counted: bool
    jumps: int
    limit: float

    @property
    def duration(self) -> float:
        """Seconds, the last frame's included."""
        return float(self.times[-1]) + self.usual

    @property
    def is_sound(self) -> bool:
        """True where a timestamp gives a frame's time, wherever reading begins."""
        return not self.is_counted and self.jumps == 0


class Clock:
    """A converter of timestamps to times that always advance, so that no decoded frame is lost.

    Where the clock jumps back or far ahead, what follows is shown after what came before. A frame
    with its predecessor's timestamp is shown before the next one's.
    """

    def __init__(self, step: float, limit: float, zero: float | None = None) -> None:
        self.step, self.limit, self.jumps = step, limit, 0
        self.offset = None if zero is None else -zero
        self.raw, self.last = -math.inf, -math.inf

    def time(self, raw: float | None) -> float:
        """Ticks since the first frame; None stands for a frame without a timestamp."""
        if raw is None:
            raw = self.raw + self.step if self.raw > -math.inf else -(self.offset or 0.0)
        if self.offset is None:
            self.offset = -raw
        if raw == self.raw:
            self.jumps += 1
            self.last = (self.last + raw + self.offset + self.step) / 2
            return self.last
        if raw < self.raw or (self.raw > -math.inf and raw - self.raw > self.limit):
            self.jumps += 1
            self.offset = self.last + self.step - raw
        self.raw = raw
        # after frames that shared a timestamp the next one may be nearer than they were spread
        self.last = max(raw + self.offset, math.nextafter(self.last, math.inf))
        return self.last


def survey(path: Path, container: Any, stream: Any) -> tuple[Any, Timeline, int]:
    """The first frame, the timeline of all that are shown, and the number of all that are stored;
    reading packets costs little beside decoding.

    Packets that are not shown do not count: those that an edit list hides, and those before the
    first frame that decodes.

    Raises:
        Unreadable: nothing decodes.
    """
    frame, packets, stored = None, [], 0
    try:
        for packet in container.demux(stream):
            if frame is None:
                frame = next(iter(packet.decode()), None)
            stored += packet.size > 0
            if packet.size and not packet.is_discard:
                packets.append((packet.pts, packet.dts, packet.duration))
    except (av.FFmpegError, MemoryError, ValueError) as error:
        if frame is None:  # else only the end is damaged: `timed` raises there
            raise Unreadable(path, "nothing decodes", str(error)) from error
    if frame is None:
        raise Unreadable(path, "no frames")
    return frame, _timeline(packets, frame, container, stream), stored


def _timeline(packets: list[Any], frame: Any, container: Any, stream: Any) -> Timeline:
    base = stream.time_base
    limit = float((_JUMP if container.format.name in _JOINED else _STILL) / base)
    step = _step(packets, stream, limit)
    stamps = [pts for pts, _, _ in packets]
    is_stored = all(pts is not None for pts in stamps)
    # An AVI states the order of storage alone. Where frames are stored out of order and their
    # timestamps are not, they are not those of display.
    reorders = bool(stream.codec_context.has_b_frames) and len(stamps) > 2
    is_counted = not is_stored or (reorders and all(np.diff(stamps) > 0))
    clock, shown = Clock(step, limit), []
    for number, run in enumerate(_runs(packets, step, limit)):
        if number == 0 and not is_counted and frame.pts is not None:
            run = [raw for raw in run if raw >= frame.pts]
        shown += [(raw, clock.time(raw)) for raw in sorted(run)]
    if not shown:
        zero = frame.pts or 0
        shown = [(zero, 0.0)]
    times = seconds(np.array([time for _, time in shown]), base)
    steps = np.diff(times)
    return Timeline(
        times=times,
        step=seconds(step, base),
        usual=float(np.median(steps)) if len(steps) else seconds(step, base),
        zero=int(shown[0][0]),
        is_counted=is_counted,
        jumps=clock.jumps,
        limit=seconds(limit, base),
    )


def seconds(ticks: Any, base: Fraction) -> Any:
    """Ticks of `base` in seconds, to the last bit: 3 of 1 / 10 are 0.3."""
    return ticks * base.numerator / base.denominator


def _step(packets: list[Any], stream: Any, limit: float) -> float:
    """Ticks that a frame lasts, by the packets' durations or the rate, if they are sane."""
    durations = [float(duration) for _, _, duration in packets if duration]
    rates = [rate for rate in (stream.guessed_rate, stream.average_rate) if rate]
    steps = [float(np.median(durations))] if durations else []
    steps += [float(1 / (rate * stream.time_base)) for rate in (*rates, _RATE)]
    return next((step for step in steps if 0 < step <= limit), steps[-1])


def _runs(packets: list[Any], step: float, limit: float) -> Iterator[list[float]]:
    """Timestamps in the order of storage, in runs between which the clock jumps."""
    run: list[float] = []
    stored: int | None = None
    filled = -step
    for pts, dts, duration in packets:
        filled += duration or step
        stamp = pts if pts is not None else dts if dts is not None else filled
        filled = stamp
        if dts is not None:
            if stored is not None and not 0 <= dts - stored <= limit:
                yield run
                run = []
            stored = dts
        run.append(float(stamp))
    if run:
        yield run


def timed(path: Path, stream: Any, timeline: Timeline, sought: bool) -> Iterator[tuple[float, Any]]:
    """Every decoded frame with its time in seconds.

    Raises:
        Unreadable: decoding stops in the middle (what was good came before).
    """
    base, last, number = stream.time_base, -math.inf, 0
    step, limit = timeline.step / float(base), timeline.limit / float(base)
    clock = Clock(step, limit, timeline.zero if sought else None)
    try:
        for frame in stream.container.decode(stream):
            if not timeline.is_counted:
                time = seconds(clock.time(frame.pts), base)
            elif number < len(timeline.times):
                time = float(timeline.times[number])
            else:
                time = last + timeline.step
            number, last = number + 1, time
            yield time, frame
    except (av.FFmpegError, MemoryError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        done, count = int((timeline.times <= last).sum()), len(timeline.times)
        where = f"decoding stops after {max(last, 0.0):.2f} s, {done} frames of {count}: {why}"
        raise Unreadable(path, "damaged", where) from error
