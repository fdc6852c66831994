"""Filters that make the frames of a video alike: progressive, opaque and of one size."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
from av.video.reformatter import VideoReformatter

from t2v.footage.containers import Unreadable
from t2v.footage.picture import colours, on_matte

_ALIKE = 0.01  # shapes that differ by less are the same, rounded


def progressive(frames: Iterator[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
    """Deinterlace frames that the decoder flags as interlaced (bwdif); times stay as they are."""
    deinterlacer: _Deinterlacer | None = None
    before = None
    try:
        for time, frame in frames:
            if deinterlacer is not None and deinterlacer.kind != _kind(frame):
                yield from deinterlacer.rest()
                deinterlacer, before = None, None
            if deinterlacer is None and frame.interlaced_frame:
                deinterlacer = _Deinterlacer(frame)
                if before is not None:
                    deinterlacer.push(None, before)
            if deinterlacer is None:
                before = frame
                yield time, frame
            else:
                deinterlacer.push(time, frame)
                yield from deinterlacer.ready()
    except Unreadable:
        if deinterlacer is not None:
            yield from deinterlacer.rest()
        raise
    if deinterlacer is not None:
        yield from deinterlacer.rest()


def _kind(frame: Any) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


class _Deinterlacer:
    """A deinterlacer: one frame out for each frame in, one later."""

    def __init__(self, frame: Any) -> None:
        self.kind = _kind(frame)
        self.graph = _graph(frame, ("bwdif", "mode=send_frame:deint=interlaced"))
        self.waiting: deque[tuple[float | None, Any]] = deque()
        self.count = 0

    def push(self, time: float | None, frame: Any) -> None:
        frame.pts, frame.time_base = self.count, Fraction(1, 25)
        self.count += 1
        self.waiting.append((time, frame))
        self.graph.push(frame)

    def ready(self) -> Iterator[tuple[float, Any]]:
        while (done := _pulled(self.graph)) is not None:
            time, frame = self.waiting.popleft()
            if time is not None:
                yield time, _coloured(done, frame)

    def rest(self) -> Iterator[tuple[float, Any]]:
        self.graph.push(None)
        yield from self.ready()


def _graph(frame: Any, *filters: tuple[str, str]) -> Any:
    graph = av.filter.Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
    )
    graph.link_nodes(source, *(graph.add(*each) for each in filters), graph.add("buffersink"))
    graph.configure()
    return graph


def _pulled(graph: Any) -> Any:
    try:
        return graph.pull()
    except (av.BlockingIOError, av.EOFError):
        return None


def _coloured(frame: Any, like: Any) -> Any:
    """Give a frame the colour tags of another one: filters lose them."""
    frame.colorspace, frame.color_range = like.colorspace, like.color_range
    return frame


@lru_cache(maxsize=64)
def _has_alpha(name: str) -> bool:
    kind = av.VideoFormat(name)
    return kind.has_palette or any(part.is_alpha for part in kind.components)


def opaque(frame: Any) -> Any:
    """Blend a frame with `MATTE` where it is transparent; opaque frames come back unchanged."""
    if not _has_alpha(frame.format.name):
        return frame
    converted = VideoReformatter().reformat(
        frame, format="rgba", dst_color_range=2, threads=1, **colours(frame)
    )
    return av.VideoFrame.from_ndarray(on_matte(converted.to_ndarray()), format="rgb24")


class OneSize:
    """Scaling of frames of another size to the first one's, centre-cropped to its aspect."""

    def __init__(self, stored: tuple[int, int], aspect: Fraction) -> None:
        self.stored, self.aspect = stored, aspect
        self.graphs: dict[Any, Any] = {}

    def fit(self, frame: Any, aspect: Fraction) -> Any:
        """Scale a frame; `aspect` is that of its pixels."""
        if (frame.height, frame.width) == self.stored:
            return frame
        key = *_kind(frame), aspect
        if key not in self.graphs:
            self.graphs[key] = self._graph(frame, aspect)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        self.graphs[key].push(frame)
        return _coloured(_pulled(self.graphs[key]), frame)

    def _graph(self, frame: Any, aspect: Fraction) -> Any:
        rows, columns = self.stored
        wanted = columns * self.aspect / rows / aspect  # columns by rows, as the frame has pixels
        width, height = frame.width, frame.height
        if width > height * wanted * (1 + _ALIKE):
            width = max(1, round(height * wanted))
        elif width < height * wanted * (1 - _ALIKE):
            height = max(1, round(width / wanted))
        how = "area" if rows < height else "bicubic"
        return _graph(
            frame,
            ("crop", f"{width}:{height}"),
            ("scale", f"{columns}:{rows}:flags={how}+accurate_rnd"),
            ("format", frame.format.name),
        )
