"""Where takes begin and end: cuts, fades and dissolves, false cuts stitched, long takes split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from einops import rearrange, reduce
from numpy.lib.stride_tricks import sliding_window_view

from t2v.config.curation import ScenesConfig

Span = tuple[int, int]  # first frame, and one after the last
SMALL = (36, 64)  # height, width of the pictures in which cuts are looked for
THUMB = (32, 18)  # width, height of those in which all else is
FLAT = 5.0  # standard deviation of a thumbnail, of 255, below which it shows nothing
BLEND = np.linspace(0.2, 0.8, 7)  # where in it a dissolve is looked at
COARSE = (8, 5)  # width, height of pictures in which a few frames of a pan do not show
FLASH = 0.3  # seconds: a picture that is back by then was never left
MOST_PARTS = 0.6  # of twelve of the picture, the least share that a dissolve changes
UNEVEN = 0.21  # of the picture: a dissolve is as far everywhere, what passes by is not
WIDTHS = (0.15, 0.25, 0.4, 0.7, 1.0, 1.3)  # of windows, in shares of the longest dissolve


class SceneFinder:
    """Takes of a film, found while its frames come by; the same however long the film is.

    Push a picture of every frame in order; each call gives the spans (frame numbers) that are
    settled by then, and `finish` the rest. Gaps between spans are transitions.
    """

    def __init__(self, config: ScenesConfig, splits_only: bool = False) -> None:
        self.config, self.splits_only = config, splits_only
        self.lag = config.dissolve_seconds + 0.5  # seconds: what a transition may reach to
        self.times: list[float] = []
        self.thumbs: list[np.ndarray] = []
        self.changes: list[float] = []
        self.first = 0  # the frame number of times[0], thumbs[0] and changes[0]
        self.last: np.ndarray | None = None  # the picture before
        self.open = 0  # where the take begins that has no end yet
        self.settled = 0  # up to where transitions are known

    def push(self, time: float, frame: np.ndarray) -> list[Span]:
        """Spans that end before `frame`, `h w c` uint8 BGR of `SMALL`, shown at `time` seconds."""
        hsv = cv2.cvtColor(frame, cv2.COLOR_BGR2HSV)
        last = hsv if self.last is None else self.last
        self.changes.append(cv2.norm(hsv, last, cv2.NORM_L1) / hsv.size)
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        self.thumbs.append(cv2.resize(grey, THUMB, interpolation=cv2.INTER_AREA))
        self.times.append(time)
        self.last = hsv
        if time - self.times[max(self.settled - self.first, 0)] < 3 * self.lag:
            return []
        until = self.first + int(np.searchsorted(self.times, time - self.lag))
        return self._settle(until)

    def finish(self) -> list[Span]:
        """The spans that are left when the film is over."""
        end = self.first + len(self.times)
        spans = self._settle(end)
        return spans + (self._split(end) if end > self.open else [])

    def _settle(self, until: int) -> list[Span]:
        known = self.times[min(self.settled - self.first, len(self.times) - 1)]
        low = int(np.searchsorted(self.times, known - self.lag))
        gaps = []
        if not self.splits_only:
            times, thumbs = np.asarray(self.times[low:]), np.stack(self.thumbs[low:])
            gaps = find_gaps(times, thumbs, np.asarray(self.changes[low:]), self.config)
        spans: list[Span] = []
        for start, end in gaps:
            start, end = start + self.first + low, end + self.first + low
            if self.settled <= end <= until and end > self.open:
                if start > self.open:
                    spans += self._split(start)
                self.open = end
        spans += self._ripe(until)
        self.settled = until
        self._forget()
        return spans

    def _split(self, end: int) -> list[Span]:
        """The open take up to `end`, in pieces no longer than `max_seconds`, the last two even."""
        spans = self._ripe(end)
        left = self._seconds(self.open, end)
        count = max(1, math.ceil(left / self.config.max_seconds - 1e-6))
        edges = np.linspace(self.open, end, count + 1).round().astype(int).tolist()
        return spans + list(pairwise(edges))

    def _ripe(self, until: int) -> list[Span]:
        """Pieces of the open take that are whole whatever follows: two more would still fit."""
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

    def _forget(self) -> None:
        known = self.times[min(self.settled - self.first, len(self.times) - 1)] - self.lag
        needless = min(int(np.searchsorted(self.times, known)), self.open - self.first)
        if needless > 0:
            del self.times[:needless], self.thumbs[:needless], self.changes[:needless]
            self.first += needless


def find_gaps(
    times: np.ndarray, thumbs: np.ndarray, changes: np.ndarray, config: ScenesConfig
) -> list[Span]:
    """Transitions as (end of the take before, start of the take after); equal for a hard cut.

    Args:
        times: seconds, `t`.
        thumbs: small grey pictures, `t h w` uint8.
        changes: of each frame from the one before, the mean over hue, saturation and value, `t`.
    """
    grey = thumbs.astype(np.float32)
    gaps = [*_fades(times, grey, config), *_dissolves(times, grey, config)]
    is_flat = grey.std((1, 2)) < FLAT
    reach = max(3, round(FLASH * _rate(times)))
    cuts = _stitched(grey, find_cuts(changes, config), reach, config)
    for cut in sorted({*cuts, *_jumps(grey, reach, config)}):
        inside = any(start - 1 <= cut <= end + 1 for start, end in gaps)
        if not inside and not (is_flat[cut - 1] and is_flat[cut]):
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


def likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of pictures, `... h w`: what light and contrast do not change."""
    a, b = (x - x.mean((-2, -1), keepdims=True) for x in (a, b))
    norm = np.sqrt((a**2).mean((-2, -1)) * (b**2).mean((-2, -1)))
    return (a * b).mean((-2, -1)) / np.maximum(norm, 1e-3)


def _stitched(
    grey: np.ndarray, cuts: Iterable[int], reach: int, config: ScenesConfig
) -> Iterator[int]:
    """The cuts across which the picture really changes (Panda-70M, section 3.1: stitching).

    A flash, a lamp switched on or a hand before the lens looks like a cut to a detector of
    differences; before and after it the pictures are alike but for their light.
    """
    for cut in cuts:
        before, after = max(cut - 2, 0), min(cut + 1, len(grey) - 1)
        if cut > 0 and likeness(grey[before], grey[after]) < config.stitch:
            pairs = _across(grey, cut, reach)
            if not any(likeness(one, other) >= config.stitch for one, other in pairs):
                yield cut


def _across(grey: np.ndarray, cut: int, reach: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pictures beside a cut with those up to `reach` frames off on its other side, so coarse
    that a pan of a few frames does not show."""
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
    """Frames where the picture moves on at once by far more than around them (xGen-VideoSyn-1's
    re-clipping at peaks of motion): jump cuts in one scene, which a detector of cuts passes over.
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
        # a flash is over soon; a jump in one scene is alike from the first, but never as close
        if not any(
            np.abs(_levelled(one) - _levelled(other)).mean() < 0.4 * step[cut - 1]
            for one, other in _across(grey, cut, reach)
        ):
            yield cut


def _fades(times: np.ndarray, grey: np.ndarray, config: ScenesConfig) -> Iterator[Span]:
    """Runs of frames that show nothing, with the fade before and after; long runs are takes."""
    contrast = grey.std((1, 2))
    flat = np.flatnonzero(np.diff(np.r_[0, (contrast < FLAT).astype(np.int8), 0]))
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
    """Do frames that show nothing stand within one picture, as a flash of light or of dark does?"""
    near = range(1, 4)  # the light may come and go in more than one frame
    soft = {
        at: cv2.resize(grey[at], COARSE, interpolation=cv2.INTER_AREA)
        for at in (*range(start - 3, start), *range(end, end + 3))
        if 0 <= at < len(grey)
    }
    return any(
        start - back >= 0
        and end - 1 + on < len(grey)
        and times[end - 1 + on] - times[start - back] <= FLASH
        and likeness(soft[start - back], soft[end - 1 + on]) >= config.stitch
        for back in near
        for on in near
    )


def _slope(contrast: np.ndarray, times: np.ndarray, start: int, step: int, seconds: float) -> int:
    """The first frame from `start` on at which the contrast no longer grows as in a fade."""
    at = start
    while 0 <= at + 2 * step < len(contrast) and abs(times[at] - times[start]) < seconds:
        if contrast[at + 2 * step] < contrast[at] * 1.02 + 0.1:
            break
        at += step
    return at if 0 <= at + 2 * step < len(contrast) else at + step


def _dissolves(times: np.ndarray, grey: np.ndarray, config: ScenesConfig) -> Iterator[Span]:
    """Stretches whose frames are blends of their two ends, which are unlike each other.

    Between pictures A and B a frame is fitted as `a A + (1 - a) B + c`. In a dissolve little is
    left over and `a` falls from 1 to 0; what merely moves is no blend of its ends.
    """
    rate = _rate(times)
    found: list[tuple[float, int, int]] = []
    level = _coarse(grey)
    coarse, fine = _products(level), _products(_fine(grey))
    for share in WIDTHS:
        width = round(config.dissolve_seconds * share * rate)
        if 4 <= width < len(grey):
            found += [
                each for each in _blends(coarse, fine, width) if _is_everywhere(level, *each[1:])
            ]
    taken: list[Span] = []
    for _, start, end in sorted(found):
        if not any(start < other_end and other_start < end for other_start, other_end in taken):
            taken.append((start, end))
    yield from _trimmed(grey, taken)


def _blends(coarse: np.ndarray, fine: np.ndarray, width: int) -> list[tuple[float, int, int]]:
    """Windows of `width` frames that look like one dissolve: what is left over, start, end."""
    whole, detail = _fit(coarse, width), _fit(fine, width)
    falls, rest = np.diff(whole.share, axis=0), whole.rest
    is_blend = (whole.apart > 60) & (whole.unlike < 0.6)
    is_blend &= (falls.max(0) < 0.02) & (falls.min(0) > -0.35)
    is_blend &= (whole.share[0] > 0.6) & (whole.share[-1] < 0.4)
    # Contrast is lost halfway in a dissolve even when both scenes move; a pan over a smooth
    # picture does the same in the coarse picture, but not in the fine one.
    stands = (rest < 0.2) & (whole.dip.max(0) < 0.35)
    stands &= (detail.rest < 0.32) & (detail.dip.max(0) < 0.55)
    moves = (rest < 0.25) & (whole.dip.max(0) < 0.55) & (whole.kin_dip.max(0) < 0.6)
    moves &= (detail.rest < 0.3) & (detail.dip.max(0) < 0.25) & (detail.dip.mean(0) < 0.15)
    is_blend &= stands | moves
    return [(float(rest[at]), at, at + width) for at in np.flatnonzero(is_blend).tolist()]


def _is_everywhere(level: np.ndarray, start: int, end: int) -> bool:
    """Does a blend change most of the picture, and is it as far everywhere?

    Somebody who walks through changes a part, or each part at another time.
    """
    parts = rearrange(level[start : end + 1], "t (h r w c) -> t (h w) (r c)", h=3, r=3, w=4, c=4)
    change = parts[-1] - parts[0]
    amount = ((change - np.median(change)) ** 2).mean(1)
    if (amount > 0.1 * amount.mean()).mean() < MOST_PARTS:
        return False
    parts = parts - parts.mean((1, 2), keepdims=True)
    apart = parts[0] - parts[-1]
    size = (apart**2).sum(1)
    middle = parts[np.round(BLEND * (end - start)).astype(int)]
    shares = ((middle - parts[-1]) * apart).sum(2) / np.maximum(size, 1e-3)
    weight = size / max(float(size.sum()), 1e-3)
    whole = (shares * weight).sum(1, keepdims=True)
    spread = ((shares - whole) ** 2 * weight).sum(1)
    return bool(np.median(np.sqrt(spread)) < UNEVEN)


class _Fit(NamedTuple):
    """How the frames between the ends A, B of `n` windows are made of them."""

    apart: np.ndarray  # the mean square of A - B, `n`
    unlike: np.ndarray  # the correlation of A and B, `n`
    share: np.ndarray  # of A at each of `BLEND`, `p n`
    rest: np.ndarray  # what is left over, of the square of A - B, `n`
    dip: np.ndarray  # how far the power is from that of a blend of strangers, `p n`
    kin_dip: np.ndarray  # the same of a blend of pictures that have in common what A and B have


def _products(level: np.ndarray) -> np.ndarray:
    """The mean product of each two frames without their means, `t t`; `level` is `t d`."""
    level = level - level.mean(1, keepdims=True)
    return level @ level.T / level.shape[1]


def _fit(products: np.ndarray, width: int) -> _Fit:
    """The fit of every window of `width` frames, by `_products`."""
    power = np.maximum(np.diagonal(products), 1e-3)
    aa, bb, ab = power[:-width], power[width:], np.diagonal(products, width)
    size = np.maximum(aa + bb - 2 * ab, 1e-3)
    shares, left, dips, kin_dips = [], [], [], []
    for at in np.round(BLEND * width).astype(int).tolist():
        mm = power[at : at + len(aa)]
        am = np.diagonal(products, at)[: len(aa)]
        mb = np.diagonal(products, width - at)[at:]
        share = (am - mb - ab + bb) / size
        of_b = at / width
        strangers = (1 - of_b) ** 2 * aa + of_b**2 * bb
        kin = np.maximum(strangers + 2 * of_b * (1 - of_b) * ab, 0.05 * (aa + bb))
        shares.append(share)
        left.append((mm + bb - 2 * mb) / size - share**2)
        dips.append(np.abs(np.log(mm / strangers)))
        kin_dips.append(np.abs(np.log(mm / kin)))
    unlike = ab / np.sqrt(aa * bb)
    share, dip, kin_dip = (np.stack(each) for each in (shares, dips, kin_dips))
    return _Fit(size, unlike, share, np.mean(left, 0), dip, kin_dip)


def _coarse(grey: np.ndarray) -> np.ndarray:
    """Pictures of 16 x 9 as vectors, `t d`: small motion does not show in them."""
    return reduce(grey, "t (h two) (w also) -> t (h w)", "mean", two=2, also=2)


def _fine(grey: np.ndarray) -> np.ndarray:
    """What is finer than two thumbnail pixels, as vectors, `t d`."""
    detail = [each - cv2.GaussianBlur(each, (0, 0), 2.0) for each in grey]
    return rearrange(detail, "t h w -> t (h w)")


def _trimmed(grey: np.ndarray, spans: Iterable[Span]) -> Iterator[Span]:
    """The spans without what is before and after the blend, or with what they missed of it."""
    level = _coarse(grey)
    for start, end in spans:
        width = end - start
        first, last = max(start - width // 2, 0), min(end + width // 2, len(grey) - 1)
        a, b = level[first], level[last]
        apart = a - b
        share = ((level[first : last + 1] - b) @ apart) / max(float(apart @ apart), 1e-3)
        sure = np.flatnonzero(share > 0.93)
        before = first + int(sure[sure <= (start + end) // 2 - first].max(initial=0))
        gone = np.flatnonzero(share < 0.07)
        after = first + int(gone[gone >= (start + end) // 2 - first].min(initial=last - first))
        yield before + 1, after
