"""Optical flow to a fraction of a pixel, and where it fails."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

SIDE = 64  # pixels of the shorter side at which flow is estimated
CELL = 4  # pixels between the places where it is estimated
REACH = 24  # pixels that a place may move between two frames
NEAR = 6  # pixels searched first; up to REACH only where nothing alike is there
STRAINED = 0.2  # of the difference of unrelated windows, above which the search goes on
UNLIKE = 0.5  # of the difference of unrelated windows, above which nothing was found
FLAT = 2.0  # grey levels of contrast under which nothing can be followed
NOISE = 4.0  # grey levels of difference that noise may make
LOST = 0.01  # share of strained places above which a pair of frames is searched further
VISIBLE = 0.35  # of a window that must lie in the frame
ALIKE = 0.2  # weight of a shift's fit over the whole frame, which decides where a place is plain
SMOOTH = 4.0  # weight of the neighbours, in squared grey levels a pixel
ROUNDING = 1 / 6  # squared grey levels between two frames in whole levels
ROUNDS = 12  # of Jacobi iteration


@dataclass(frozen=True)
class Flow:
    """Flow between pairs of frames on a grid of places, in pixels of a shorter side of 64."""

    moved: Tensor  # b 2 y x: where each place goes, (y, x)
    error: Tensor  # b y x: standard error of the length
    inside: Tensor  # b y x, bool: it goes to a place inside the frame
    found: Tensor  # b y x, bool: the window there looks alike
    strained: Tensor  # b y x, bool: it looks less alike than after a mere shift
    textured: Tensor  # b y x, bool: there is something to follow


def flow(before: Tensor, after: Tensor) -> Flow:
    """Return the flow from grey frames `b h w` (0 to 255) to others, checked by the flow back.

    A place is searched at half the size, then its shift is refined by least squares (Lucas & Kanade
    1981, with smoothness between places: Bruhn et al. 2005). It is found when the window there
    differs by less than half of what unrelated windows do, and the flow back leads to where it came
    from (Sundaram et al. 2010, eq. 5).
    """
    ours, theirs = torch.cat((before, after)), torch.cat((after, before))
    both = refined(ours, theirs, _searched(ours, theirs, NEAR))
    lost = (both.strained & both.inside).float().mean((1, 2)) > LOST
    lost = (lost[: len(before)] | lost[len(before) :]).repeat(2)
    if lost.any():
        further = refined(ours[lost], theirs[lost], _searched(ours[lost], theirs[lost], REACH))
        for name in vars(both):
            getattr(both, name)[lost] = getattr(further, name)
    there, back = (
        Flow(*(getattr(both, name).chunk(2)[half] for name in vars(both))) for half in (0, 1)
    )
    returned = warp(back.moved, there.moved / CELL)
    gap = (there.moved + returned).square().sum(1)
    reach = there.moved.square().sum(1) + returned.square().sum(1)
    agrees = (gap < 0.01 * reach + 0.5) | ~there.textured
    return replace(there, found=there.found & agrees)


def resized(video: Tensor) -> Tensor:
    """Return grey frames `n t h w` of `n t h w c` uint8 videos, their shorter side 64 pixels."""
    grey = video.float().mean(-1)
    scale = SIDE / min(grey.shape[2:])
    size = [max(SIDE, round(side * scale / CELL) * CELL) for side in grey.shape[2:]]
    if scale < 1:
        return F.interpolate(grey, size=size, mode="area")
    return grey if scale == 1 else F.interpolate(grey, size=size, mode="bicubic")


def detail(frames: Tensor) -> Tensor:
    """Return frames `b c h w` without their local means: a flash is no motion."""
    return frames - F.avg_pool2d(frames, 9, 1, 4, count_include_pad=False)


def warp(maps: Tensor, moved: Tensor, mode: str = "bilinear") -> Tensor:
    """Return maps `b c h w` read at each place plus `moved`, `b 2 h w` in their pixels (y, x)."""
    height, width = maps.shape[2:]
    y = torch.arange(height, device=maps.device)[:, None] + moved[:, 0]
    x = torch.arange(width, device=maps.device) + moved[:, 1]
    at = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    return F.grid_sample(maps, at, mode=mode, padding_mode="border", align_corners=False)


def everywhere(moved: Tensor) -> Tensor:
    """Return flow of the grid at every pixel, `b 2 h w`."""
    return F.interpolate(moved, scale_factor=CELL, mode="bilinear", align_corners=False)


def inside_frame(moved: Tensor) -> Tensor:
    """Return which pixels stay inside the frame, `b h w`; `moved` is `b 2 h w` in pixels."""
    height, width = moved.shape[2:]
    y = torch.arange(height)[:, None] + moved[:, 0]
    x = torch.arange(width) + moved[:, 1]
    return (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)


def _pooled(values: Tensor, cell: int = CELL) -> Tensor:
    """Means over windows of 3 x 3 cells about each cell of `b c h w`; beyond the edge is 0."""
    return F.avg_pool2d(F.avg_pool2d(values, cell), 3, 1, 1)


def _searched(before: Tensor, after: Tensor, reach: int) -> Tensor:
    """The whole-pixel shift by which each place fits best, `b 2 y x`, searched at half the size."""
    a, b = (F.avg_pool2d(each[:, None], 2) for each in (before, after))
    a, b = detail(a), detail(b)
    height, width = a.shape[2:]
    up, side = min(reach, height) // 2, min(reach, width) // 2
    valid = F.pad(torch.ones_like(a[:1]), (side, side, up, up))
    b = F.pad(b, (side, side, up, up))
    across = torch.arange(-side, side + 1, device=a.device)
    best = torch.full((len(a), height // 2, width // 2), torch.inf, device=a.device)
    where = torch.zeros(len(a), 2, *best.shape[1:], device=a.device)
    for y in range(-up, up + 1):
        rows = slice(up + y, up + y + height)
        visible = rearrange(valid[..., rows, :].unfold(-1, width, 1), "b 1 h x w -> b x h w")
        shifted = rearrange(b[..., rows, :].unfold(-1, width, 1), "b 1 h x w -> b x h w")
        share = _pooled(visible, 2)
        cost = _pooled((shifted - a).square_() * visible, 2) / share.clamp(min=1e-3)
        counts = share > VISIBLE
        whole = (cost * counts).sum((2, 3), keepdim=True) / counts.sum((2, 3), keepdim=True)
        shift = rearrange(across.square() + y * y, "x -> x 1 1")
        cost = cost + ALIKE * whole + 1e-3 * shift  # of equal fits the shortest
        cost, index = cost.masked_fill(~counts, torch.inf).min(1)
        better = cost < best
        best = torch.where(better, cost, best)
        found = torch.stack((torch.full_like(cost, y), across[index].float()), dim=1)
        where = torch.where(better[:, None], found, where)
    return 2 * where


def refined(before: Tensor, after: Tensor, moved: Tensor, steps: int = 3) -> Flow:
    """The flow near a shift `b 2 y x` by least squares, not followed back."""
    a, b = before[:, None], after[:, None]
    for _ in range(steps):
        # windows overlap, so that shifts taking turns about the true one would stay
        moved = _median(moved)
        moved = moved + _solved(_around(a, b, moved), moved).clamp(-2, 2)
    at = _around(a, b, moved)
    yy, xy, xx, _, _, left, ours, theirs = at.products.unbind(1)
    det = (yy * xx - xy.square()).clamp(min=1e-6)
    pixels = at.share.clamp(min=0.05) * (3 * CELL) ** 2
    unrelated = ours + theirs
    return Flow(
        moved=moved,
        error=(left.clamp(min=ROUNDING) * (yy + xx) / det / pixels).sqrt(),
        inside=at.share > 0.5 * _pooled(torch.ones_like(a[:1]))[:, 0],
        found=left < (UNLIKE * unrelated).clamp(min=NOISE**2),
        strained=left > (STRAINED * unrelated).clamp(min=NOISE**2),
        textured=ours > FLAT**2,
    )


def _median(moved: Tensor) -> Tensor:
    near = F.pad(moved, (1,) * 4, mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1)
    return near.flatten(4).median(4).values


@dataclass(frozen=True)
class _Around:
    """The least-squares sums of the window about each place."""

    products: Tensor  # b 8 y x: covariances of slopes, of slopes and difference, and variances
    share: Tensor  # b y x: how much of the window lies in both frames


def _around(a: Tensor, b: Tensor, moved: Tensor) -> _Around:
    full = everywhere(moved)
    warped = warp(b, full)
    inside = inside_frame(full)[:, None].float()
    middle = F.pad((a + warped) / 2, (1,) * 4, mode="replicate")
    gy = (middle[..., 2:, 1:-1] - middle[..., :-2, 1:-1]) / 2
    gx = (middle[..., 1:-1, 2:] - middle[..., 1:-1, :-2]) / 2
    off = a - warped
    parts = torch.cat((gy, gx, off, a, warped), 1) * inside
    first, second = [0, 0, 1, 0, 1, 2, 3, 4], [0, 1, 1, 2, 2, 2, 3, 4]
    pairs = [parts[:, i] * parts[:, j] for i, j in zip(first, second, strict=True)]
    pooled = _pooled(torch.cat((torch.stack(pairs, dim=1), parts, inside), 1))
    share = pooled[:, -1]
    mean = pooled[:, :-1] / share.clamp(min=1e-3)[:, None]
    products, mean = mean.split((len(first), 5), dim=1)
    products = products - mean[:, first] * mean[:, second]
    products[:, :5] *= (share > 0.1)[:, None]
    return _Around(products, share)


def _solved(around: _Around, moved: Tensor) -> Tensor:
    """The step of each place that fits best and keeps neighbours alike, `b 2 y x`."""
    yy, xy, xx, wanted_y, wanted_x = around.products[:, :5].unbind(1)
    yy, xx = yy + SMOOTH, xx + SMOOTH
    det = yy * xx - xy.square()
    yy, xy, xx = yy / det, xy / det, xx / det
    wanted = torch.stack((wanted_y, wanted_x), dim=1) - SMOOTH * moved
    step = torch.zeros_like(moved)
    for _ in range(ROUNDS):
        near = F.pad(moved + step, (1,) * 4, mode="replicate")
        near = (
            near[..., 1:-1, :-2] + near[..., 1:-1, 2:] + near[..., :-2, 1:-1] + near[..., 2:, 1:-1]
        )
        y, x = (wanted + SMOOTH / 4 * near).unbind(1)
        step = torch.stack((xx * y - xy * x, yy * x - xy * y), dim=1)
    return step
