"""Reads footage of any kind with PyAV: upright, square pixels, by its timestamps, in streams."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from t2v.errors import UserError

# FFmpeg would also play text files (`tty`) and fetch what a playlist names (`hls`, `concat`).
_OPEN = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,"
    "asf,ogg,mxf,dv,h264,hevc,m4v,ivf,y4m,yuv4mpegpipe,apng,webp",
    "protocol_whitelist": "file",
}
_TRANSFER = {16: "pq", 18: "hlg"}  # ITU-T H.273: what marks HDR
_FULL = 2  # AVCOL_RANGE_JPEG
_BT601, _BT709 = 5, 1
_SLACK = 1e-4  # seconds: times in a manifest are rounded


class Unreadable(UserError):
    """A file, or the rest of one, that gives no frames; `verdict` says it in a word or two."""

    def __init__(self, path: Path, verdict: str, detail: str = "") -> None:
        self.verdict, self.detail = verdict, detail
        super().__init__(
            f"{path}: {verdict}{f' ({detail})' if detail else ''}. "
            "Give a video file that plays, or leave it out."
        )

    def __reduce__(self) -> tuple[Any, ...]:  # exceptions forget their arguments in a pickle
        return _unreadable, (self.verdict, self.detail, str(self))


def _unreadable(verdict: str, detail: str, text: str) -> Unreadable:
    error = Unreadable(Path(), verdict, detail)
    error.args = (text,)
    return error


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the headers, the packets and the first frame of a file say of it.

    `width` and `height` are as shown: upright, with square pixels. `duration` and `num_frames`
    count packets, not what a header claims; `declared_frames` is the claim (0: none made).
    """

    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    coded_width: int
    coded_height: int
    rotation: int  # degrees counter-clockwise from stored to shown: 0, 90, 180 or 270
    sample_aspect: Fraction  # width of a stored pixel by its height
    fps: float  # frames over duration
    vfr: bool  # do more than 1 % of the frames stay much longer or shorter than the others?
    bit_depth: int
    full_range: bool
    hdr: str  # "pq", "hlg" or "" for ordinary footage
    interlaced: bool
    duration: float  # seconds, the last frame's own included
    num_frames: int
    declared_frames: int
    video_streams: int
    audio_streams: int


def probe(path: str | Path) -> Probe:
    """Look at a file without decoding more of it than one frame.

    Raises:
        Unreadable: it is empty, no video, without a video stream, a cover picture of a sound
            file, or nothing in it decodes.
        UserError: there is no such file, or it may not be read.
    """
    with _opened(path := Path(path)) as (container, stream):
        frame, times, tail = _surveyed(path, container, stream)
        shape = _shape(stream, frame)
        kind = {
            "container": container.format.name,
            "codec": stream.codec_context.name,
            "pixel_format": frame.format.name,
            "coded_width": frame.width,
            "coded_height": frame.height,
            "bit_depth": max(each.bits for each in frame.format.components),
            "full_range": is_full(frame),
            "hdr": _TRANSFER.get(int(frame.color_trc), ""),
            "interlaced": bool(frame.interlaced_frame),
            "declared_frames": stream.frames,
            "video_streams": len(container.streams.video),
            "audio_streams": len(container.streams.audio),
            **_timing(times, tail, stream),
        }
    return Probe(
        width=shape.width,
        height=shape.height,
        rotation=shape.turns * 90,
        sample_aspect=shape.aspect,
        **kind,
    )


def iter_frames(
    path: str | Path,
    start: float = 0.0,
    end: float | None = None,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """The frames shown from `start` to before `end`, one after the other, with their times.

    Args:
        path: any video file.
        start: seconds on the file's own clock, from its first frame.
        end: seconds; None for all there is.
        fps: None for every frame as it is; else the frame on screen at each `start + k / fps`,
            so that variable rates come out at the right speed.
        size: height and width to scale and centre-crop to; None as shown.
        crop: `left, top, width, height` in pixels as shown, cut out before scaling.

    Yields:
        The time in seconds and the frame, `h w c` uint8 RGB: upright, square pixels, 8 bits,
        full range. Frames whose time does not advance are left out.

    Raises:
        Unreadable: as for `probe`, or decoding stops in the middle (what was good came before).
        UserError: there is no such file, or the span or crop is not inside the picture.
    """
    path = Path(path)
    if start < 0 or (end is not None and end <= start):
        raise UserError(f"{path}: start={start} end={end}: give 0 <= start < end.")
    pictures = iter_pictures(path, start)
    if fps is not None:
        pictures = _at_rate(pictures, start, end, fps)
    for time, picture in pictures:
        if end is not None and time >= end - _SLACK:
            return
        if time >= start - _SLACK or fps is not None:
            yield time, picture.rgb(size, crop)


def read_frames(
    path: str | Path,
    start: float = 0.0,
    end: float | None = None,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """The frames of `iter_frames` in one array, `t h w c` uint8 RGB.

    Raises what `iter_frames` does, and UserError when the span holds no frame.
    """
    frames = [frame for _, frame in iter_frames(path, start, end, fps=fps, size=size, crop=crop)]
    if not frames:
        raise UserError(f"{path}: shows no frame from {start} to {end} s. Ask for another span.")
    return np.stack(frames)


@dataclass(frozen=True)
class _Shape:
    """How stored pixels become the picture that is shown."""

    stored: tuple[int, int]  # height, width
    aspect: Fraction
    turns: int  # quarter turns counter-clockwise

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width with square pixels, before turning."""
        return self.stored[0], max(1, round(self.stored[1] * self.aspect))

    @property
    def height(self) -> int:
        return self.upright[self.turns % 2]

    @property
    def width(self) -> int:
        return self.upright[1 - self.turns % 2]


def _shape(stream: Any, frame: Any) -> _Shape:
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    sane = aspect is not None and Fraction(1, 8) <= aspect <= 8  # 0 and nonsense stand for unknown
    turns = round(frame.rotation / 90) % 4
    return _Shape((frame.height, frame.width), Fraction(aspect) if sane else Fraction(1), turns)


class Picture:
    """A decoded frame that can be painted at any size, as often as wanted."""

    def __init__(self, path: Path, frame: Any, shape: _Shape, painters: dict[Any, Any]) -> None:
        self.path, self.frame, self.shape, self.painters = path, frame, shape, painters

    def rgb(
        self,
        size: tuple[int, int] | None = None,
        crop: tuple[int, int, int, int] | None = None,
    ) -> np.ndarray:
        """`h w c` uint8 RGB; the arguments are those of `iter_frames`."""
        key = self.shape, size, crop
        if key not in self.painters:
            self.painters[key] = _painter(self.path, *key)
        return self.painters[key](self.frame)


def _painter(
    path: Path,
    shape: _Shape,
    size: tuple[int, int] | None,
    crop: tuple[int, int, int, int] | None,
) -> Callable[[Any], np.ndarray]:
    """Turns decoded frames of one shape into RGB arrays of one size."""
    left, top, width, height = crop or (0, 0, shape.width, shape.height)
    if min(left, top) < 0 or left + width > shape.width or top + height > shape.height:
        raise UserError(f"{path}: crop={crop} is not inside {shape.width}x{shape.height}.")
    rows, columns = size or (height, width)
    zoom = max(rows / height, columns / width)  # cover the size, then cut the rest off
    full = [max(1, math.ceil(side * zoom - 1e-9)) for side in (shape.height, shape.width)]
    first_row = round(top * zoom + (height * zoom - rows) / 2)
    first_column = round(left * zoom + (width * zoom - columns) / 2)
    window = np.s_[first_row : first_row + rows, first_column : first_column + columns]
    scaled = full if shape.turns % 2 == 0 else full[::-1]
    reformatter = VideoReformatter()

    def paint(frame: Any) -> np.ndarray:
        matrix = int(frame.colorspace)
        if matrix not in (_BT709, _BT601, 6, 7, 9):  # untagged: what players assume by size
            matrix = _BT709 if min(frame.height, frame.width) >= 720 else _BT601
        picture = reformatter.reformat(
            frame,
            width=scaled[1],
            height=scaled[0],
            format="rgb24",
            src_colorspace=matrix,
            src_color_range=2 if is_full(frame) else 1,
            dst_color_range=2,
            interpolation="AREA" if zoom < 1 else "BICUBIC",
            threads=1,  # the default starts one a core, in every worker
        )
        return np.ascontiguousarray(np.rot90(picture.to_ndarray(), shape.turns)[window])

    return paint


def is_full(frame: Any) -> bool:
    """Do the levels of a decoded frame fill 0 to 255, rather than 16 to 235?"""
    name = frame.format.name
    return int(frame.color_range) == _FULL or name.startswith(("yuvj", "rgb", "bgr", "gbr", "pal"))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and the stream that is the film, one decoder thread; errors get their names."""
    try:
        if path.stat().st_size == 0:
            raise Unreadable(path, "empty file")
        # absolute: a path can then never be read as the name of a protocol
        container = av.open(path.absolute(), options=_OPEN, metadata_errors="ignore")
    except av.FFmpegError as error:
        if isinstance(error, PermissionError):
            raise UserError(f"{path}: may not be read. Give yourself the right to.") from error
        raise Unreadable(path, "not a video", error.strerror or str(error)) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    with container:
        stream = _film(path, container)
        stream.codec_context.thread_count = 1
        yield container, stream


def _film(path: Path, container: Any) -> Any:
    streams = container.streams.video
    if not streams:
        raise Unreadable(path, "no video stream", f"{len(container.streams.audio)} of sound")
    films = [each for each in streams if not each.disposition & av.stream.Disposition.attached_pic]
    if not films or films[0].codec_context is None:
        raise Unreadable(path, "unknown codec" if films else "cover picture, no video")
    return films[0]


def _surveyed(path: Path, container: Any, stream: Any) -> tuple[Any, list[int], int]:
    """The first frame, and the times of all packets and the length of the last, in ticks; to go
    through the packets costs next to nothing."""
    frame, times, tail = None, [], 0
    try:
        for packet in container.demux(stream):
            if frame is None:
                frame = next(iter(packet.decode()), None)
            if packet.size and packet.pts is not None:
                times.append(packet.pts)
                tail = packet.duration or tail
    except (av.FFmpegError, MemoryError) as error:
        if frame is None:  # else a damaged end: `iter_frames` tells where
            raise Unreadable(path, "nothing decodes", str(error)) from error
    if frame is None:
        raise Unreadable(path, "no frames")
    return frame, sorted(set(times)), tail


def _timing(times: list[int], tail: int, stream: Any) -> dict[str, Any]:
    """Rate, length and count of frames, by the times of the packets."""
    base = stream.time_base
    steps = np.array([after - before for before, after in pairwise(times)])
    alone = tail or 1 / ((stream.average_rate or 1) * base)  # ticks that a single frame stays
    usual = float(np.median(steps) if len(steps) else alone)
    uneven = float(np.mean(np.abs(steps - usual) > 0.25 * usual)) if len(steps) else 0.0
    duration = float(((times[-1] - times[0]) if times else 0) + usual) * float(base)
    return {
        "num_frames": len(times),
        "duration": duration,
        "fps": len(times) / duration if times else 0.0,
        "vfr": uneven > 0.01,
    }


def iter_pictures(path: Path, start: float = 0.0) -> Iterator[tuple[float, Picture]]:
    """Times and frames not yet painted, from the key frame at or before `start` on.

    Raises what `iter_frames` does.
    """
    if start > 0:
        sought = _sought(path, start)
        first = next(sought, None)
        if first is not None and first[0] <= start + _SLACK:  # else the container cannot seek
            yield from chain([first], sought)
            return
    with _opened(path) as (_, stream):
        yield from _clocked(path, stream)


def _sought(path: Path, start: float) -> Iterator[tuple[float, Picture]]:
    with _opened(path) as (container, stream):
        if stream.start_time is None:
            return
        ticks = math.floor(start / float(stream.time_base)) + stream.start_time
        try:
            container.seek(ticks, stream=stream)
        except av.FFmpegError:
            return
        yield from _clocked(path, stream)


def _clocked(path: Path, stream: Any) -> Iterator[tuple[float, Picture]]:
    zero, last, shape = stream.start_time, -math.inf, None
    step = float(1 / stream.average_rate) if stream.average_rate else 0.04
    painters: dict[Any, Any] = {}
    try:
        for frame in stream.container.decode(stream):
            if shape is None or shape.stored != (frame.height, frame.width):
                shape = _shape(stream, frame)
            if zero is None and frame.pts is not None:
                zero = frame.pts
            time = max(last, -step) + step
            if frame.pts is not None:
                time = float((frame.pts - zero) * stream.time_base)
            if time > last:
                last = time
                yield time, Picture(path, frame, shape, painters)
    except (av.FFmpegError, MemoryError) as error:
        why = getattr(error, "strerror", None) or error
        where = f"decoding stops after {max(last, 0.0):.2f} s: {why}"
        raise Unreadable(path, "damaged", where) from error


def _at_rate(
    pictures: Iterator[tuple[float, Picture]], start: float, end: float | None, fps: float
) -> Iterator[tuple[float, Picture]]:
    """The picture that is on screen at each `start + k / fps`, as often as it takes."""
    shown, wanted = None, 0
    slack = 1e-3 / fps  # timestamps are rounded to the ticks of their container
    last = step = 0.0
    for time, picture in pictures:
        while shown is not None and start + wanted / fps < time - slack:
            yield start + wanted / fps, shown
            wanted += 1
        shown, step, last = picture, time - last, time
    stop = last + max(step, slack)
    while shown is not None and start + wanted / fps < min(end or stop, stop) - slack:
        yield start + wanted / fps, shown
        wanted += 1
