"""The motion of videos by optical flow: its speed, its place, and the error it leaves."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from t2v.evaluation.metrics.flow import (
    CELL,
    NOISE,
    SIDE,
    Flow,
    detail,
    everywhere,
    flow,
    inside_frame,
    refined,
    resized,
    warp,
)

PAIRS = 64  # of frames, computed at once
SURE = 3.0  # standard errors under which a place counts as still
MOVES = 0.5  # pixels of 64 from which a place counts as moving
SLOW = 1.0  # pixels under which frames further apart are compared
LOST = 0.02  # share of the frame that may be lost before a video is off the scale
PLAIN = 0.3  # share that must have texture where something moves
FOUND = 0.3  # share of the frame that must be found again
REMEMBERED = 4096  # videos: the real clips of one suite stand beside those of others


@dataclass(frozen=True)
class Motion:
    """The motion of `n` videos."""

    speed: Tensor  # n: mean over pixels and time, % of the shorter side a second; nan: off
    off_scale: Tensor  # n, bool: the flow cannot be trusted
    where: Tensor  # n y x, bool: places that move or are lost
    warp_error: Tensor  # n: mean square that flow leaves unexplained, of [0, 1], times 1000


@dataclass(frozen=True)
class _Steps:
    """Pixels of a shorter side of 64, for each pair of frames."""

    moved: Tensor  # b 2 h w
    known: Tensor  # b h w, bool
    textured: Tensor  # b h w, bool
    lost: Tensor  # b h w, bool

    @property
    def length(self) -> Tensor:
        return self.moved.square().sum(1).sqrt()


def motion(video: Tensor, fps: float) -> Motion:
    """Return the motion of videos `n t h w c`, uint8; the speed is a mean over all pixels.

    Steps under a pixel of 64 are measured between frames 2, 4, 8 ... apart, as far as the clip
    lasts. Off the scale is a video in which more is lost between frames than found moving (too
    fast, noise, cuts), or that moves and is too plain to follow.
    """
    grey = resized(video)
    found = [
        _measured_once(_Film(each, frames), fps) for each, frames in zip(video, grey, strict=True)
    ]
    speed, off_scale, where, error = (torch.stack(each) for each in zip(*found, strict=True))
    return Motion(speed.masked_fill(off_scale, torch.nan), off_scale, where, error)


class _Film:
    """A video known by its content; it lets go of its frames when they are measured."""

    def __init__(self, video: Tensor, grey: Tensor) -> None:
        self.frames: tuple[Tensor, Tensor] | None = (video, grey)
        content = hashlib.sha256(video.contiguous().numpy().data).digest()
        self.content = (tuple(video.shape), content)

    def __hash__(self) -> int:
        return hash(self.content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Film) and self.content == other.content


@lru_cache(maxsize=REMEMBERED)
def _measured_once(film: _Film, fps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert film.frames is not None
    video, grey = film.frames
    film.frames = None
    return _measured(video, grey, fps)


def _measured(video: Tensor, grey: Tensor, fps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    before, after = grey[:-1], grey[1:]
    flows = [flow(a, b) for a, b in zip(before.split(PAIRS), after.split(PAIRS), strict=True)]
    steps = _chosen(before, after, _joined(flows))
    error = warp_error(video, steps.moved, steps.known)
    moved, apart = torch.cat([each.moved for each in flows]), 1
    while 2 * apart < len(grey) and _is_slow(steps):
        moved, apart = 2 * moved.mean(0, keepdim=True), 2 * apart
        first = torch.arange(0, len(grey) - apart, apart // 2)
        before, after = grey[first], grey[first + apart]
        further = refined(before, after, moved.expand(len(first), -1, -1, -1))
        moved, steps = further.moved, _chosen(before, after, further)
    length, known = steps.length, steps.known
    share = known.float().mean((1, 2))
    mean = (length * known).mean((1, 2))[share > 0] / share[share > 0]  # of each step
    speed = mean.mean() * fps * 100 / SIDE / apart
    moving = known & (length >= MOVES)
    lost, plain = steps.lost.float().mean(), steps.textured.float().mean() < PLAIN
    found_moving = (moving & steps.textured).float().mean()
    off = (
        ((lost > LOST) & (lost > found_moving))
        | (known.float().mean() < FOUND)
        | (plain & moving.any())
    )
    where = F.max_pool2d((moving | steps.lost).float(), CELL).amax(0) > 0
    return speed, off, where, error


def _joined(flows: list[Flow]) -> Flow:
    return Flow(*(torch.cat([getattr(each, name) for each in flows]) for name in vars(flows[0])))


def _is_slow(steps: _Steps) -> bool:
    length = steps.length[steps.known]
    if len(length) == 0 or steps.lost.float().mean() > LOST:
        return False
    return bool(length.kthvalue(max(1, int(0.99 * len(length)))).values < SLOW)


def _chosen(before: Tensor, after: Tensor, found: Flow) -> _Steps:
    """The flow at each pixel, or none where standing still fits better."""
    size = found.moved.square().sum(1).sqrt()
    moved = everywhere(found.moved * (size > SURE * found.error)[:, None])
    a, b = detail(before[:, None]), detail(after[:, None])
    apart = torch.cat((a - warp(b, moved), a - b), 1).square()
    apart = F.avg_pool2d(apart, 5, 1, 2, count_include_pad=False)
    still = apart[:, 1] + 1 < apart[:, 0]
    fits = still & (apart[:, 1] < NOISE**2)
    inside, alike, textured = (
        each.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
        for each in (found.inside, found.found, found.textured)
    )
    inside = inside & inside_frame(moved)
    return _Steps(
        moved=moved * ~still[:, None],
        known=fits | (inside & alike),
        textured=textured,
        lost=inside & ~alike & ~fits,
    )


def warp_error(video: Tensor, moved: Tensor, known: Tensor) -> Tensor:
    """Return E_warp of a video `t h w c` uint8 (Lai et al. 2018, eq. 3), times 1000.

    The mean square difference, over colours, of values in [0, 1], between each frame and the next
    one warped back along the flow, over the pixels found in both; nan where these are too few.

    Args:
        moved: flow to the next frame, `t-1 2 y x` in pixels of a shorter side of 64.
        known: the places found in both frames, `t-1 y x` bool.
    """
    frames = rearrange(video, "t h w c -> t c h w").float() / 255
    height, width = frames.shape[2:]
    scale = moved.new_tensor([height / moved.shape[2], width / moved.shape[3]])
    total, count = torch.zeros(()), torch.zeros(())
    for here, there, path, valid in zip(
        *(each.split(PAIRS) for each in (frames[:-1], frames[1:], moved, known)), strict=True
    ):
        path = F.interpolate(path, size=(height, width), mode="bilinear", align_corners=False)
        path = path * rearrange(scale, "c -> c 1 1")
        mask = F.interpolate(valid[:, None].float(), size=(height, width)) > 0
        mask = mask & inside_frame(path)[:, None]
        off = (here - warp(there, path, "bicubic").clamp(0, 1)).square().mean(1, keepdim=True)
        total, count = total + (off * mask).sum(), count + mask.sum()
    if count < FOUND * len(known) * height * width:
        return torch.tensor(torch.nan)
    return 1000 * total / count
