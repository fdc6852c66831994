"""Dissolves: spans of a film whose frames are blends of the two ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
from einops import rearrange, reduce

from t2v.config.curation import ScenesConfig

Span = tuple[int, int]  # first frame, and one after the last
BLEND = np.linspace(0.2, 0.8, 7)  # the positions in a dissolve that are tested
CHANGED_PARTS = 0.6  # the least share of twelve parts of the picture that a dissolve changes
UNEVEN = 0.21  # progress differs by less over a dissolve's picture, by more where things pass
WIDTHS = (0.15, 0.25, 0.4, 0.7, 1.0, 1.3)  # of windows, as shares of the longest dissolve


def dissolves(grey: np.ndarray, rate: float, config: ScenesConfig) -> Iterator[Span]:
    """Spans whose frames are blends of their two ends, which differ from each other.

    Between pictures A and B a frame is fitted as `a A + (1 - a) B + c`. In a dissolve the residual
    is small and `a` falls from 1 to 0; mere motion is no blend of its ends.

    Args:
        grey: thumbnails, `t h w` float, `rate` a second.
    """
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
    """Windows of `width` frames that look like one dissolve: residual, start, end."""
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
    """Return whether a blend changes most of the picture, and everywhere at the same pace.

    Somebody who walks through the picture changes a part of it, or each part at another time.
    """
    parts = rearrange(level[start : end + 1], "t (h r w c) -> t (h w) (r c)", h=3, r=3, w=4, c=4)
    change = parts[-1] - parts[0]
    amount = ((change - np.median(change)) ** 2).mean(1)
    if (amount > 0.1 * amount.mean()).mean() < CHANGED_PARTS:
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
    """The fit of the frames of `n` windows as blends of the windows' ends A and B."""

    apart: np.ndarray  # the mean square of A - B, `n`
    unlike: np.ndarray  # the correlation of A and B, `n`
    share: np.ndarray  # of A at each of `BLEND`, `p n`
    rest: np.ndarray  # the residual, as a share of the square of A - B, `n`
    dip: np.ndarray  # log ratio of the power to that of a blend of unrelated pictures, `p n`
    kin_dip: np.ndarray  # the same for pictures as correlated as A and B, `p n`


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
    """Pictures of 16 x 9 as vectors, `t d`, in which small motion is invisible."""
    return reduce(grey, "t (h two) (w also) -> t (h w)", "mean", two=2, also=2)


def _fine(grey: np.ndarray) -> np.ndarray:
    """Details finer than two thumbnail pixels, as vectors, `t d`."""
    detail = [each - cv2.GaussianBlur(each, (0, 0), 2.0) for each in grey]
    return rearrange(detail, "t h w -> t (h w)")


def _trimmed(grey: np.ndarray, spans: Iterable[Span]) -> Iterator[Span]:
    """The spans, moved to where the blend begins and ends."""
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
