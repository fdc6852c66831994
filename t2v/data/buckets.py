"""Buckets: the shapes that clips are grouped by, and the choice of one for a clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from t2v.config.data import ClipsConfig
from t2v.errors import UserError

ALIKE = 0.04  # shapes this near to each other count as one, and the larger is taken
LEAST_AREA = 0.75  # of the budget; at 64x64 that leaves 48x64 for 4:3


class Bucket(NamedTuple):
    """The shape of every clip in it."""

    num_frames: int
    height: int
    width: int


class Unfit(Exception):
    """A clip that cannot be used as asked: `kind: detail`, the kind being what is counted."""


def bucket_sizes(
    resolution: int, aspects: Sequence[str], multiple: int = 16
) -> tuple[tuple[int, int], ...]:
    """Find for each aspect the (height, width) nearest to it within the area budget.

    Sides are multiples of `multiple` pixels (the VAE's 8 times the transformer's patch of 2); the
    area is at most `resolution` squared and at least 3/4 of it.

    Raises:
        UserError: no size has such an area.
    """
    budget = resolution**2
    sides = range(multiple, 8 * resolution, multiple)
    near = [(h, w) for h, w in product(sides, sides) if LEAST_AREA * budget <= h * w <= budget]
    if not near:
        raise UserError(
            f"clips.resolution={resolution}: no frame whose sides are multiples of {multiple} "
            f"pixels has 3/4 to all of that area. Give a multiple of {multiple}."
        )
    found = []
    for aspect in aspects:
        width, height = map(int, aspect.split(":"))
        shape = height, width
        found.append(
            min(near, key=lambda size: (round(_apart(size, shape) / ALIKE), -math.prod(size)))
        )
    return tuple(dict.fromkeys(found))


def bucket_lengths(config: ClipsConfig, num_frames: int, stride: int = 4) -> tuple[int, ...]:
    """The frame counts of the buckets, longest first, images (one frame) left out.

    They are `config.lengths`, or `num_frames` and its halves, and the limits of the stages.

    Args:
        num_frames: of the longest clips.
        stride: the VAE takes a multiple of it plus one.

    Raises:
        UserError: one does not fit the VAE.
    """
    chosen = list(config.lengths)
    if not chosen:
        chosen = [num_frames]
        while (half := (chosen[-1] - 1) // 2 // stride * stride + 1) > 1:
            chosen.append(half)
    chosen += [stage.num_frames for stage in config.stages if stage.num_frames is not None]
    for count in chosen:
        if count < 1 or (count - 1) % stride:
            below = max(1, (count - 1) // stride * stride + 1)
            raise UserError(
                f"{count} frames do not fit the VAE, which takes {stride}k+1. "
                f"Nearest: {below} or {below + stride}."
            )
    return tuple(sorted({count for count in chosen if count > 1}, reverse=True))


def fit_size(
    height: int, width: int, sizes: Sequence[tuple[int, int]], max_upscale: float
) -> tuple[int, int]:
    """The size whose shape is nearest to the footage's.

    Raises:
        Unfit: the footage would be enlarged by more than `max_upscale`.
    """
    size = min(sizes, key=lambda each: _apart(each, (height, width)))
    zoom = max(size[0] / height, size[1] / width)
    if zoom > max_upscale:
        raise Unfit(
            f"too small: {width}x{height} would be enlarged {zoom:.2f} times for "
            f"{size[1]}x{size[0]}, max_upscale is {max_upscale}"
        )
    return size


def fit_length(available: int, lengths: Sequence[int]) -> int:
    """The longest of `lengths` that the footage fills.

    Raises:
        Unfit: it is shorter than all of them.
    """
    if fitting := [length for length in lengths if length <= available]:
        return max(fitting)
    if not lengths:
        raise Unfit("too long: a video, and only images are asked for")
    raise Unfit(f"too short: {available} frames at the model's rate, {min(lengths)} are needed")


def _apart(one: tuple[int, int], other: tuple[int, int]) -> float:
    """The distance of two (height, width) in shape: 0 is equal, log 2 is twice as wide."""
    return abs(math.log(one[1] / one[0]) - math.log(other[1] / other[0]))
