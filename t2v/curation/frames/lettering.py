"""Lines of text burned into a picture, found by the strokes of their characters."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from t2v.curation.frames.boxes import Box
from t2v.curation.frames.thumbnails import downscaled

CONTRAST = 40  # of 255, between a stroke and its surroundings
STEADY = 32  # of 255: smaller changes from still to still count as none
BLACK = 70  # of 255: the outline of white characters, or the box behind them, is darker
NEAR = np.ones((3, 3), np.uint8)
# Log odds that a row of parts is text: a logistic regression on subtitles in 9 styles and 3 sizes
# rendered into six films, against false candidates in those films and in rows of windows. The order
# is that of `_features`. With one film left out, 95 % of the subtitles score above `SURE`, and
# nothing else in that film does.
WEIGHTS = np.array([3.45, 15.3, -8.65, 17.9, 2.45, 13.4, 8.16])
BIAS = -31.7
SURE = 3.0
SURE_OF_TITLE = 5.0  # leaves and stones form more large rows than small ones


def text_lines(grey: np.ndarray, others: Sequence[np.ndarray] = ()) -> list[Box]:
    """Lines of text in a still, light or dark, each of at least three characters in a row.

    Args:
        grey: `h w` uint8.
        others: the stills before and after; strokes that stay while the rest moves are burned in.

    Titles, up to a third of the picture high, are searched for in downscaled versions of the still.
    """
    size = grey.shape[0]
    lines = _lines(grey, others, size, SURE)
    for zoom in (2, 4):
        small = size // zoom, grey.shape[1] // zoom
        if min(small) >= 24:
            before_and_after = [downscaled(other, small) for other in others]
            found = _lines(downscaled(grey, small), before_and_after, size, SURE_OF_TITLE)
            titles = [Box(*(zoom * side for side in line)) for line in found]
            lines += [title for title in titles if title.height > zoom * size // 20]
    return lines


def _lines(grey: np.ndarray, others: Sequence[np.ndarray], size: int, sure: float) -> list[Box]:
    """Lines of characters up to a ninth of `size` high, the height of the whole still."""
    side = max(7, size // 28 | 1)  # wider than a stroke, narrower than a character
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (side, side))
    found = []
    for light in (grey, cv2.bitwise_not(grey)):
        raised = cv2.morphologyEx(light, cv2.MORPH_TOPHAT, kernel)
        peak = cv2.dilate(raised, np.ones((5, 5), np.uint8))
        strokes = ((raised > CONTRAST) & (raised >= peak // 2)).view(np.uint8)
        parts = _parts(strokes, size)
        for line in _rows(parts):
            box = _around(parts[line])
            features = _features(box, parts[line], strokes, light, grey, others)
            if features is not None and float(features @ WEIGHTS) + BIAS > sure:
                found.append(box)
    return found


def _parts(strokes: np.ndarray, size: int) -> np.ndarray:
    """Possible characters, or touching ones: left, top, width, height, area; sorted by left."""
    # labels of 16 bits take a third of the time, and are enough for all but dot patterns
    stats = cv2.connectedComponentsWithStats(strokes, connectivity=8, ltype=cv2.CV_16U)[2]
    _, _, wide, high, area = stats.T
    fits = (high >= max(4, size // 90)) & (high <= size // 9) & (wide <= 9 * high)
    fits &= (area > 0.1 * wide * high) & (area >= 6)
    fits[0] = False  # the background
    parts = stats[fits]
    return parts[np.argsort(parts[:, 0], kind="stable")]


def _rows(parts: np.ndarray) -> list[list[int]]:
    """Parts that follow each other to the right: of similar height, close, on one line."""
    left, top, width, height = parts[:, :4].T.astype(np.float32)
    right, bottom = left + width, top + height
    places = np.arange(len(parts))
    until = np.searchsorted(left, right + 3 * height, side="right")
    count = np.maximum(until - places - 1, 0)
    one = np.repeat(places, count)
    two = np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count) + one + 1
    low, high = np.minimum(height[one], height[two]), np.maximum(height[one], height[two])
    gap = left[two] - right[one]
    shared = np.minimum(bottom[one], bottom[two]) - np.maximum(top[one], top[two])
    off = np.minimum(np.abs(bottom[one] - bottom[two]), np.abs(top[one] - top[two]))
    fits = (np.abs(gap - 0.35 * high) < 0.95 * high) & (high < 2.2 * low)
    fits &= (shared > 0.6 * low) & (off < 0.22 * high + 1.01)
    one, two = one[fits], two[fits]
    distance = (np.maximum(gap, 0) + 0.5 * off + 0.3 * (high - low))[fits]
    order = np.lexsort((distance, one))
    one, two = one[order], two[order]
    nearest = np.flatnonzero(np.diff(one, prepend=-1))
    follows = dict(zip(one[nearest].tolist(), two[nearest].tolist(), strict=True))
    rows: list[list[int]] = []
    taken: set[int] = set()
    for first in range(len(parts)):
        row, at = [], first
        while at >= 0 and at not in taken:
            taken.add(at)
            row.append(at)
            at = follows.get(at, -1)
        if len(row) >= 3:
            rows.append(row)
    return rows


def _around(parts: np.ndarray) -> Box:
    left, top = parts[:, :2].min(axis=0).tolist()
    right, bottom = (parts[:, :2] + parts[:, 2:4]).max(axis=0).tolist()
    return Box(left, top, right - left, bottom - top)


def _features(
    box: Box,
    parts: np.ndarray,
    strokes: np.ndarray,
    light: np.ndarray,
    grey: np.ndarray,
    others: Sequence[np.ndarray],
) -> np.ndarray | None:
    """The features that separate text from windows and leaves; None where it cannot be text.

    In the order of `WEIGHTS`: the logarithm of parts and strokes; the share of the box that strokes
    fill; the share of parts that are full rectangles, as windows are; the brightness of strokes,
    how much brighter they are than the gaps, how black their outline is; and how much they stay
    while the rest moves.
    """
    height = float(np.median(parts[:, 3]))
    if box.width < 3.5 * height or box.height > 2.2 * height or _are_even(parts):
        return None
    across = np.s_[box.left : box.left + box.width]
    rows = np.s_[box.top : box.top + box.height]
    mask = strokes[rows, across]
    lines = mask[[int(box.height * share) for share in (0.35, 0.5, 0.65)]]
    crossed = float(np.median((lines[:, 1:] > lines[:, :-1]).sum(1)))
    if crossed < 4:
        return None
    inside = light[rows, across]
    bright = cv2.mean(inside, mask=mask)[0]
    ring = cv2.dilate(mask, NEAR) - mask
    is_full = parts[:, 4] > 0.8 * parts[:, 2] * parts[:, 3]
    return np.array(
        [
            np.log(len(parts) + crossed),
            mask.mean(),
            is_full.mean(),
            bright / 255,
            (bright - cv2.mean(inside, mask=1 - mask)[0]) / 128,
            cv2.mean((inside < BLACK).view(np.uint8), mask=ring)[0],
            max((_stays(box, mask, grey, other) for other in others), default=0.0),
        ]
    )


def _are_even(parts: np.ndarray) -> bool:
    """Return whether most have one width and one spacing, as windows, pickets and keys have."""
    wide, steps = parts[:, 2], np.diff(parts[:, 0])
    alike = (np.abs(each - np.median(each)) <= 0.1 * np.median(each) + 1 for each in (wide, steps))
    return all(each.mean() > 0.8 for each in alike)


def _stays(box: Box, mask: np.ndarray, grey: np.ndarray, other: np.ndarray) -> float:
    """The share of the strokes that stays in another still, times the motion around them."""
    above = max(box.top - box.height, 0)
    near = np.s_[above : box.top + 2 * box.height, box.left : box.left + box.width]
    change = cv2.absdiff(grey[near], other[near])
    inner = change[box.top - above :][: box.height]
    same = cv2.mean((inner < STEADY).view(np.uint8), mask=mask)[0]
    return max(2 * same - 1, 0.0) * min(cv2.mean(change)[0] / 32, 1.0)
