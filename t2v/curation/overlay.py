"""What is laid over a picture: bars around it, burned-in text, a logo that stays."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from t2v.config.curation import OverlayConfig
from t2v.curation.take import Take, scored
from t2v.manifest import Clip

MOST = 5  # stills that are compared


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
    shown = stills[np.linspace(0, len(stills) - 1, min(len(stills), MOST)).astype(int)]
    firsts = np.linspace(0, max(len(stills) - 2, 0), min(MOST - 1, len(stills))).astype(int)
    # two stills in a row: a title or a line of subtitles is not there all the time
    written = [text_lines(_Stays(stills[first : first + 2])) for first in sorted({*firsts})]
    whole = Box(0, 0, stills.shape[2], stills.shape[1])
    inner = bars(stills)
    share = 1 - inner.width * inner.height / (whole.width * whole.height)
    lines = sorted({line for each in written for line in each})
    marks = logos(_Stays(shown))
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


class _Stays:
    """What of a few stills stays where it is: their median, and how far each pixel wanders."""

    def __init__(self, stills: np.ndarray) -> None:
        greys = np.stack([cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in stills])
        self.count = len(greys)
        self.median = np.sort(greys, axis=0)[len(greys) // 2]
        self.wander = greys.std(axis=0, dtype=np.float32)


def text_lines(stays: _Stays) -> list[Box]:
    """Lines of burned-in text: parts like characters, of one colour, in a row, that stay in place.

    Light and dark parts narrower than a stroke are found in the picture that most stills share;
    what does not stay the same from still to still is not burned in.
    """
    shared, wander = stays.median, stays.wander
    side = max(9, shared.shape[0] // 20 | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (side, side))
    lines = []
    for way in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
        strokes = cv2.morphologyEx(shared, way, kernel)
        mask = ((strokes > 60) & (wander < 16)).astype(np.uint8)
        lines += _lines(_characters(mask, shared))
    return lines


def _characters(mask: np.ndarray, grey: np.ndarray) -> list[Box]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    tallest = grey.shape[0] // 8
    found = []
    for number in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[number])
        if not (
            6 <= height <= tallest and width <= 2.5 * height and area / (width * height) > 0.12
        ):
            continue
        window = np.s_[top : top + height, left : left + width]
        inside = labels[window] == number
        if grey[window][inside].std() < 32:  # one colour
            found.append(Box(left, top, width, height))
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


def logos(stays: _Stays) -> list[Box]:
    """Marks in the corners that stand still, with sharp edges, while the rest moves."""
    wander = stays.wander
    if stays.count < 3 or np.median(wander) < 8:
        return []  # where all stands still a mark cannot be told from the scene
    edges = np.abs(cv2.Laplacian(stays.median, cv2.CV_32F)) > 40
    height, width = wander.shape
    mask = (edges & (wander < 5)).astype(np.uint8)
    mask[height // 4 : -(height // 4), :] = 0
    mask[:, width // 3 : -(width // 3)] = 0
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    boxes = [Box(*(int(value) for value in stats[number][:4])) for number in range(1, count)]
    least = height // 30
    return [box for box in boxes if box.width >= least and box.height >= least]
