"""Rectangles in a picture, and what is left of it when some of them are cut off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: int
    top: int
    width: int
    height: int


def area(boxes: Sequence[Box]) -> int:
    """The sum of the areas of boxes, in pixels."""
    return sum(box.width * box.height for box in boxes)


def intersection(a: Box, b: Box) -> Box:
    """The part that two boxes share; its sides are 0 where they share none."""
    left, top = max(a.left, b.left), max(a.top, b.top)
    right = min(a.left + a.width, b.left + b.width)
    bottom = min(a.top + a.height, b.top + b.height)
    return Box(left, top, max(right - left, 0), max(bottom - top, 0))


def without(whole: Box, boxes: Sequence[Box]) -> Box:
    """The largest rest of `whole` when each box is cut off with the strip to its nearest edge."""
    rest = whole
    for box in boxes:
        right, bottom = rest.left + rest.width, rest.top + rest.height
        if not all(intersection(rest, box)[2:]):
            continue
        rests = [
            Box(rest.left, rest.top, rest.width, max(box.top - rest.top, 0)),
            Box(rest.left, rest.top, max(box.left - rest.left, 0), rest.height),
            Box(rest.left, box.top + box.height, rest.width, max(bottom - box.top - box.height, 0)),
            Box(box.left + box.width, rest.top, max(right - box.left - box.width, 0), rest.height),
        ]
        rest = max(rests, key=lambda each: each.width * each.height)
    return rest


def described(boxes: Sequence[Box]) -> str:
    """The first three boxes in words: left,top and width x height."""
    shown = ", ".join(f"{b.left},{b.top} {b.width}x{b.height}" for b in boxes[:3])
    return shown + (" and more" if len(boxes) > 3 else "")
