"""The bounds of shots: cuts, fades and dissolves, false cuts stitched, long shots split."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from t2v.config.curation import ScenesConfig
from t2v.curation.frames.dissolves import Span, dissolves

CUT_SIZE = (36, 64)  # height, width of the pictures in which cuts are searched
THUMB = (32, 18)  # width, height of those for everything else
FLAT = 5.0  # standard deviation, of 255, below which a thumbnail or a frame's middle is plain
COARSE = (8, 5)  # width, height of pictures in which a few frames of a pan are invisible
FLASH = 0.3  # seconds: a picture that returns within them is the same shot


class SceneFinder:
    """Finds the shots of a film while its frames stream by, in memory that does not grow.

    Push a picture of every frame in order; each call returns the spans (frame numbers) that are
    settled by then, and `finish` the rest. Gaps between spans are transitions.
    """

    def __init__(self, config: ScenesConfig, splits_only: bool = False) -> None:
        self.config, self.splits_only = config, splits_only
        self.lag = config.dissolve_seconds + 0.5  # seconds that a transition may span
        self.times: list[float] = []
        self.thumbs: list[np.ndarray] = []
        self.changes: list[float] = []
        self.plain: list[bool] = []
        self.first = 0  # the frame number of times[0], thumbs[0], changes[0], plain[0]
        self.last: np.ndarray | None = None  # the previous picture
        self.open = 0  # the start of the shot that has no end yet
        self.settled = 0  # transitions are known up to here

    def push(
        self, time: float, frame: np.ndarray, middle: Callable[[], np.ndarray] | None = None
    ) -> list[Span]:
        """Return the spans that end before a frame.

        Args:
            time: seconds at which it is shown.
            frame: its thumbnail, `h w c` uint8 BGR of `CUT_SIZE`.
            middle: returns its middle, unscaled; noise and fine texture are plain in a thumbnail.
        """
        hsv = cv2.cvtColor(frame, cv2.COLOR_BGR2HSV)
        last = hsv if self.last is None else self.last
        self.changes.append(cv2.norm(hsv, last, cv2.NORM_L1) / hsv.size)
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        thumb = cv2.resize(grey, THUMB, interpolation=cv2.INTER_AREA)
        self.thumbs.append(thumb)
        self.plain.append(_is_flat(thumb) and (middle is None or _is_flat(middle())))
        self.times.append(time)
        self.last = hsv
        if time - self.times[max(self.settled - self.first, 0)] < 3 * self.lag:
            return []
        until = self.first + int(np.searchsorted(self.times, time - self.lag))
        return self._settle(until)

    def finish(self) -> list[Span]:
        """Return the remaining spans at the end of the film."""
        end = self.first + len(self.times)
        spans = self._settle(end)
        return spans + (self._split(end) if end > self.open else [])

    def _settle(self, until: int) -> list[Span]:
        known = self.times[min(self.settled - self.first, len(self.times) - 1)]
        low = int(np.searchsorted(self.times, known - self.lag))
        gaps = []
        if not self.splits_only:
            times, thumbs = np.asarray(self.times[low:]), np.stack(self.thumbs[low:])
            changes, plain = np.asarray(self.changes[low:]), np.asarray(self.plain[low:])
            gaps = find_gaps(times, thumbs, changes, plain, self.config)
        spans: list[Span] = []
        for start, end in gaps:
            start, end = start + self.first + low, end + self.first + low
            if self.settled <= end <= until and end > self.open:
                if start > self.open:
                    spans += self._split(start)
                self.open = end
        spans += self._ripe(until)
        self.settled = until
        self._release()
        return spans

    def _split(self, end: int) -> list[Span]:
        """The open shot up to `end`, in pieces of at most `max_seconds`, the last two equal."""
        spans = self._ripe(end)
        left = self._seconds(self.open, end)
        count = max(1, math.ceil(left / self.config.max_seconds - 1e-6))
        edges = np.linspace(self.open, end, count + 1).round().astype(int).tolist()
        return spans + list(pairwise(edges))

    def _ripe(self, until: int) -> list[Span]:
        """Pieces of the open shot that are final: at least two more fit after them."""
        spans = []
        longest = self.config.max_seconds
        while self.open < until and self._seconds(self.open, until) >= 2 * longest:
            begin = self.times[self.open - self.first]
            end = self.first + int(np.searchsorted(self.times, begin + longest - 1e-6))
            spans.append((self.open, end))
            self.open = end
        return spans

    def _seconds(self, start: int, end: int) -> float:
        last = min(end - self.first, len(self.times) - 1)
        return self.times[last] - self.times[start - self.first] if last >= 0 else 0.0

    def _release(self) -> None:
        known = self.times[min(self.settled - self.first, len(self.times) - 1)] - self.lag
        needless = min(int(np.searchsorted(self.times, known)), self.open - self.first)
        if needless > 0:
            del self.times[:needless], self.thumbs[:needless]
            del self.changes[:needless], self.plain[:needless]
            self.first += needless


def _is_flat(picture: np.ndarray) -> bool:
    return cv2.meanStdDev(picture)[1].item() < FLAT


def find_gaps(
    times: np.ndarray,
    thumbs: np.ndarray,
    changes: np.ndarray,
    plain: np.ndarray,
    config: ScenesConfig,
) -> list[Span]:
    """Transitions as (end of the shot before, start of the shot after); equal for a hard cut.

    Args:
        times: seconds, `t`.
        thumbs: grey thumbnails, `t h w` uint8.
        changes: from frame to frame, the mean over hue, saturation and value, `t`.
        plain: whether a frame shows nothing, `t` bool.
    """
    grey = thumbs.astype(np.float32)
    gaps = [*_fades(times, grey, plain, config), *dissolves(grey, _rate(times), config)]
    reach = max(3, round(FLASH * _rate(times)))
    cuts = _stitched(grey, find_cuts(changes, config), reach, config)
    for cut in sorted({*cuts, *_jumps(grey, reach, config)}):
        inside = any(start - 1 <= cut <= end + 1 for start, end in gaps)
        if not inside and not (plain[cut - 1] and plain[cut]):
            gaps.append((cut, cut))
    return _merged(gaps)


def find_cuts(changes: np.ndarray, config: ScenesConfig) -> list[int]:
    """Frames that change by far more than the two before and after: PySceneDetect's
    AdaptiveDetector, of all frames at once."""
    if len(changes) < 5:
        return []
    near = (changes[:-4] + changes[1:-3] + changes[3:-1] + changes[4:]) / 4
    change = changes[2:-2]
    is_cut = change >= np.maximum(config.adaptive_threshold * near, config.min_content)
    return (np.flatnonzero(is_cut) + 2).tolist()


def _rate(times: np.ndarray) -> float:
    return (len(times) - 1) / max(times[-1] - times[0], 1e-6) if len(times) > 1 else 0.0


def _merged(gaps: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(gaps):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of pictures, `... h w`, independent of brightness and contrast."""
    a, b = (x - x.mean((-2, -1), keepdims=True) for x in (a, b))
    norm = np.sqrt((a**2).mean((-2, -1)) * (b**2).mean((-2, -1)))
    return (a * b).mean((-2, -1)) / np.maximum(norm, 1e-3)


def _stitched(
    grey: np.ndarray, cuts: Iterable[int], reach: int, config: ScenesConfig
) -> Iterator[int]:
    """The cuts across which the picture really changes (Panda-70M, section 3.1: stitching).

    A flash, a lamp switched on or a hand before the lens looks like a cut to a detector of
    differences, but the pictures before and after it are alike except for their light.
    """
    for cut in cuts:
        before, after = max(cut - 2, 0), min(cut + 1, len(grey) - 1)
        if cut > 0 and similarity(grey[before], grey[after]) < config.stitch:
            pairs = _across(grey, cut, reach)
            if not any(similarity(one, other) >= config.stitch for one, other in pairs):
                yield cut


def _across(grey: np.ndarray, cut: int, reach: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a picture beside a cut and one up to `reach` frames off on its other side, so coarse
    that a pan of a few frames is invisible."""
    near = np.s_[max(cut - 1 - reach, 0) : cut + reach + 1]
    soft = [cv2.resize(each, COARSE, interpolation=cv2.INTER_AREA) for each in grey[near]]
    cut -= near.start
    for step in range(1, reach + 1):
        if cut + step < len(soft):
            yield soft[cut - 1], soft[cut + step]
        if cut - 1 - step >= 0:
            yield soft[cut - 1 - step], soft[cut]


def _levelled(picture: np.ndarray) -> np.ndarray:
    return picture - picture.mean()


def _jumps(grey: np.ndarray, reach: int, config: ScenesConfig) -> Iterator[int]:
    """Frames with a peak of motion far above their neighbours (xGen-VideoSyn-1's re-clipping): jump
    cuts within one scene, which a cut detector misses.
    """
    if len(grey) < 8:
        return
    level = grey - grey.mean((1, 2), keepdims=True)
    step = np.abs(level[1:] - level[:-1]).mean((1, 2))  # from frame k to k + 1
    across = np.abs(level[3:] - level[:-3]).mean((1, 2))  # around a cut at k + 2
    most = sliding_window_view(np.pad(step, 6), 6).max(1)  # of the six steps before k
    cuts = np.arange(2, len(grey) - 1)
    usual = np.maximum(np.maximum(most[cuts - 1], most[cuts + 6]), 1.0)
    is_jump = (step[cuts - 1] > config.peak * usual) & (across[cuts - 2] > 0.7 * step[cuts - 1])
    for cut in cuts[is_jump].tolist():
        # a flash is soon over; after a jump in one scene pictures are similar, but never as close
        if not any(
            np.abs(_levelled(one) - _levelled(other)).mean() < 0.4 * step[cut - 1]
            for one, other in _across(grey, cut, reach)
        ):
            yield cut


def _fades(
    times: np.ndarray, grey: np.ndarray, plain: np.ndarray, config: ScenesConfig
) -> Iterator[Span]:
    """Runs of plain frames, with the fade before and after; long runs are shots of their own."""
    contrast = grey.std((1, 2))
    flat = np.flatnonzero(np.diff(np.r_[0, plain.astype(np.int8), 0]))
    for start, end in flat.reshape(-1, 2).tolist():
        if _is_lit_up(times, grey, start, end, config):
            continue
        before = _slope(contrast, times, start, -1, config.dissolve_seconds)
        after = _slope(contrast, times, end - 1, 1, config.dissolve_seconds)
        if times[end - 1] - times[start] < config.dissolve_seconds:
            yield before + 1, after
        else:
            yield before + 1, start
            yield end, after


def _is_lit_up(
    times: np.ndarray, grey: np.ndarray, start: int, end: int, config: ScenesConfig
) -> bool:
    """Return whether plain frames interrupt one picture, as a flash of light or darkness does."""
    near = range(1, 4)  # the light may take more than one frame to come and go
    soft = {
        at: cv2.resize(grey[at], COARSE, interpolation=cv2.INTER_AREA)
        for at in (*range(start - 3, start), *range(end, end + 3))
        if 0 <= at < len(grey)
    }
    return any(
        start - back >= 0
        and end - 1 + on < len(grey)
        and times[end - 1 + on] - times[start - back] <= FLASH
        and similarity(soft[start - back], soft[end - 1 + on]) >= config.stitch
        for back in near
        for on in near
    )


def _slope(contrast: np.ndarray, times: np.ndarray, start: int, step: int, seconds: float) -> int:
    """The first frame from `start` on where the contrast stops growing as in a fade."""
    at = start
    while 0 <= at + 2 * step < len(contrast) and abs(times[at] - times[start]) < seconds:
        if contrast[at + 2 * step] < contrast[at] * 1.02 + 0.1:
            break
        at += step
    return at if 0 <= at + 2 * step < len(contrast) else at + step
