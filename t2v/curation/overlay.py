"""What is laid over a picture: bars around it, burned-in text, a logo that stays."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import cv2
import numpy as np

from t2v.config.curation import OverlayConfig
from t2v.curation.small import shrunk
from t2v.curation.take import Take, scored
from t2v.manifest import Clip

MOST = 5  # stills that are compared
STEADY = 32  # of 255: what changes less from still to still has not changed


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: int
    top: int
    width: int
    height: int


def overlay(take: Take, config: OverlayConfig) -> Clip:
    """The clip with what lies over it cropped away where enough is left, else dropped or tagged.

    The crop is `extra["crop"]`: left, top, width, height in pixels as shown; `width` and `height`
    become those of the crop. Scores: `bars` and `text`, the share of the picture they take.
    Tags: `letterbox`, `text`, `logo`.
    """
    clip, stills = take.clip, take.stills
    greys = np.stack([cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in stills])
    shown = greys[np.linspace(0, len(greys) - 1, min(len(greys), MOST)).astype(int)]
    firsts = np.linspace(0, max(len(greys) - 2, 0), min(MOST - 1, len(greys))).astype(int)
    # two stills in a row: a title or a line of subtitles is not there all the time
    written = [text_lines(greys[first], greys[first : first + 2][-1]) for first in {*firsts}]
    whole = Box(0, 0, stills.shape[2], stills.shape[1])
    inner = bars(stills)
    share = 1 - inner.width * inner.height / (whole.width * whole.height)
    lines = sorted({line for each in written for line in each})
    marks = logos(shown)
    area = max(sum(box.width * box.height for box in each) for each in written)
    covered = area / (whole.width * whole.height)
    clip = scored(clip, bars=share, text=covered)
    found = [
        ("letterbox", config.letterbox, share > 0, inner, f"bars take {share:.0%} of the picture"),
        *(
            (name, wish, bool(boxes), _beside(inner, boxes), f"{name} at {_words(boxes)}")
            for name, wish, boxes in (("text", config.text, lines), ("logo", config.logo, marks))
            if name == "logo" or covered > config.max_text
        ),
    ]
    kept = whole
    for name, wish, is_there, rest, reason in found:
        if not is_there:
            continue
        clip = scored(clip, name)
        kept_by = _common(kept, rest)
        enough = kept_by.width * kept_by.height >= config.min_left * inner.width * inner.height
        if wish == "crop" and enough:
            kept = kept_by
        elif wish != "tag":
            return clip.drop("overlay", f"{reason}, and cropping leaves too little")
    return clip if kept == whole else _cropped(clip, kept, whole)


def _cropped(clip: Clip, kept: Box, whole: Box) -> Clip:
    """The clip with its crop in pixels of the source: inwards by a still's pixel, even sides."""
    assert clip.width and clip.height
    across, down = clip.width / whole.width, clip.height / whole.height
    left, right = kept.left * across, (kept.left + kept.width) * across
    top, bottom = kept.top * down, (kept.top + kept.height) * down
    edges = [
        int(np.ceil(left + (kept.left > 0))),
        int(np.ceil(top + (kept.top > 0))),
        int(right - (kept.left + kept.width < whole.width)),
        int(bottom - (kept.top + kept.height < whole.height)),
    ]
    width, height = (edges[2] - edges[0]) // 2 * 2, (edges[3] - edges[1]) // 2 * 2
    crop = [edges[0], edges[1], width, height]
    return replace(clip, width=width, height=height, extra=clip.extra | {"crop": crop})


def _common(a: Box, b: Box) -> Box:
    left, top = max(a.left, b.left), max(a.top, b.top)
    right = min(a.left + a.width, b.left + b.width)
    bottom = min(a.top + a.height, b.top + b.height)
    return Box(left, top, max(right - left, 0), max(bottom - top, 0))


def _words(boxes: list[Box]) -> str:
    shown = ", ".join(f"{b.left},{b.top} {b.width}x{b.height}" for b in boxes[:3])
    return shown + (" and more" if len(boxes) > 3 else "")


def _beside(inner: Box, boxes: list[Box]) -> Box:
    """The largest rest of `inner` when each box is cut off with the strip to its nearest edge."""
    rest = inner
    for box in boxes:
        right, bottom = rest.left + rest.width, rest.top + rest.height
        if not all(_common(rest, box)[2:]):
            continue
        ways = [
            Box(rest.left, rest.top, rest.width, max(box.top - rest.top, 0)),
            Box(rest.left, rest.top, max(box.left - rest.left, 0), rest.height),
            Box(rest.left, box.top + box.height, rest.width, max(bottom - box.top - box.height, 0)),
            Box(box.left + box.width, rest.top, max(right - box.left - box.width, 0), rest.height),
        ]
        rest = max(ways, key=lambda way: way.width * way.height)
    return rest


def bars(stills: np.ndarray) -> Box:
    """The picture within black bars; all of it where there are none or nothing is lit.

    A row or column belongs to a bar when less than 2 % of it is ever brighter than 24 of 255.
    """
    light = stills[0].copy()
    for each in stills[1:]:
        cv2.max(light, each, light)
    light = light.max(axis=2) > 24  # h w
    rows, columns = (np.flatnonzero(light.mean(axis) > 0.02) for axis in (1, 0))
    height, width = light.shape
    if not len(rows) or not len(columns):
        return Box(0, 0, width, height)
    box = Box(int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    thin = box.width > 0.98 * width and box.height > 0.98 * height
    return Box(0, 0, width, height) if thin else box


def text_lines(before: np.ndarray, after: np.ndarray) -> list[Box]:
    """Lines of burned-in text: parts like characters, of one colour, in a row, that stay in place.

    Light and dark parts narrower than a stroke are found in two stills, `h w` uint8 grey; what is
    not the same in both is not burned in. Titles, up to a third of the picture high, are looked
    for in the halved stills.
    """
    height, width = before.shape
    lines = _written(before, after, 6, height // 8, height // 20)
    half = height // 2, width // 2
    titles = _written(
        shrunk(before, half), shrunk(after, half), height // 20, height // 6, height // 20
    )
    return lines + [Box(*(2 * side for side in line)) for line in titles]


def _written(
    before: np.ndarray, after: np.ndarray, least: int, most: int, stroke: int
) -> list[Box]:
    """Lines of characters from `least` to `most` pixels high, with strokes under `stroke`."""
    shared, steady = cv2.max(before, after), cv2.absdiff(before, after) < STEADY
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (max(9, stroke | 1),) * 2)
    lines = []
    for way in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
        mask = (cv2.morphologyEx(shared, way, kernel) > 60) & steady
        lines += _lines(_characters(mask.view(np.uint8), shared, least, most))
    return lines


def _characters(mask: np.ndarray, grey: np.ndarray, least: int, most: int) -> list[Box]:
    # labels of 16 bits take a third of the time, and are enough for all but dot patterns
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_16U)
    width, height, area = stats.T[2:]
    fits = (least <= height) & (height <= most) & (width <= 2.5 * height)
    fits &= area > 0.12 * width * height
    fits[0] = False  # what is no part
    found = []
    for number in np.flatnonzero(fits).tolist():
        box = Box(*stats[number, :4].tolist())
        window = np.s_[box.top : box.top + box.height, box.left : box.left + box.width]
        inside = (labels[window] == number).view(np.uint8)
        if cv2.meanStdDev(grey[window], mask=inside)[1].item() < 32:  # one colour
            found.append(box)
    return sorted(found)


def _lines(boxes: list[Box]) -> list[Box]:
    """Rows of at least six characters of like height, close together, on one line."""
    lines: list[list[Box]] = []
    for box in boxes:
        for line in lines:
            last = line[-1]
            gap = box.left - last.left - last.width
            shared = min(box.top + box.height, last.top + last.height) - max(box.top, last.top)
            alike = 0.5 < box.height / last.height < 2
            if alike and shared > 0.5 * min(box.height, last.height) and gap < 1.5 * last.height:
                line.append(box)
                break
        else:
            lines.append([box])
    return [_around(line) for line in lines if len(line) >= 6 and _is_straight(line)]


def _is_straight(line: list[Box]) -> bool:
    """Do the characters stand on one base line, and share it unevenly as words do?"""
    bottoms = np.array([box.top + box.height for box in line])
    height = float(np.median([box.height for box in line]))
    on_base = np.abs(bottoms - np.median(bottoms)) < 0.2 * height + 1
    return bool(on_base.mean() > 0.7)


def _around(boxes: list[Box]) -> Box:
    left, top = min(box.left for box in boxes), min(box.top for box in boxes)
    right = max(box.left + box.width for box in boxes)
    bottom = max(box.top + box.height for box in boxes)
    return Box(left, top, right - left, bottom - top)


def logos(greys: np.ndarray) -> list[Box]:
    """Marks in the corners of stills, `n h w` uint8, that stand still, with sharp edges, while the
    rest moves."""
    if len(greys) < 3 or np.median(greys[:, ::4, ::4].std(axis=0)) < 8:
        return []  # where all stands still a mark cannot be told from the scene
    height, width = greys.shape[1:]
    rows, columns = height // 4, width // 3
    found = []
    for top, left in product((0, height - rows), (0, width - columns)):
        corner = np.sort(greys[:, top : top + rows, left : left + columns], axis=0)
        edges = np.abs(cv2.Laplacian(corner[len(corner) // 2], cv2.CV_16S)) > 40
        mask = (edges & (corner.std(axis=0, dtype=np.float32) < 5)).view(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
        for box in cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:, :4].tolist():
            if min(box[2:]) >= height // 30:
                found.append(Box(left + box[0], top + box[1], *box[2:]))
    return found
