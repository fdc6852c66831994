"""What happens along time: motion, flicker, frozen frames, and what stays itself."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional as F

from t2v.evaluation.measure import CHUNK, Column, Findings, NotRun, Videos, at_least
from t2v.evaluation.nets import Nets, PictureNet, gap

SIDE = 64  # motion is read with the shorter side at most this long
BLOCK = 8
REACH = 5  # pixels of SIDE a block may move between two frames
SLACK = 0.5  # grey levels by which a shifted block must fit better than one that stays
FROZEN = 0.5  # grey levels of change under which a frame repeats the one before
LEVELS = "grey levels of 255"


def dynamics(videos: Videos, nets: Nets) -> Findings:
    """Motion beside every figure that a still video would win."""
    at_least(videos.video[0], 3, "dynamics of a video, frame by frame,")
    second = max(1, round(videos.fps))  # in frames
    parts = [_chunk(each, videos.fps, nets.perceptual) for each in videos.video.split(CHUNK)]
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    network = nets.perceptual.name if nets.perceptual else ""
    better = {
        "motion": ("", f"blocks of {BLOCK} in {SIDE} pixels, % of the shorter side a second"),
        "frozen": ("", f"share of steps that change under {FROZEN:g} grey levels"),
        "flickering": ("higher", "VBench's formula: 1 - mean change / 255"),
        "jerk": ("lower", f"half of the second difference, {LEVELS}"),
        "sharpness": ("", f"mean absolute Laplacian, {LEVELS}"),
        "subject": ("higher", f"VBench's formula where things move, {network}"),
        "background": ("higher", f"VBench's formula where nothing moves, {network}"),
        "max_running": ("lower", f"Panda-70M's, the largest change within a second, {network}"),
    }
    found: Findings = {}
    for name, (sense, method) in better.items():
        if name in values:
            part = name == "frozen"
            found[name] = Column(values[name], sense, method, is_part=part)  # type: ignore[arg-type]
        elif network:
            found[name] = NotRun(f"{videos.video.shape[1]} frames last no second of {second}")
        else:
            found[name] = NotRun("no network is named: perceptual=vae or a model")
    return found


def _chunk(video: Tensor, fps: float, net: PictureNet | None) -> dict[str, Tensor]:
    moved = displacement(video).norm(dim=-1)  # n t h w
    found = {
        "motion": moved.mean((1, 2, 3)) * fps * 100 / SIDE,
        "frozen": (change(video) < FROZEN).float().mean(1),
        "flickering": 1 - change(video).mean(1) / 255,
        "jerk": jerk(video),
        "sharpness": sharpness(video),
    }
    if net is not None:
        layers = net.maps(video)  # n t c h w each
        found["subject"] = persistence(layers[-1], moved.amax(1) > 0)
        found["background"] = persistence(layers[-1], moved.amax(1) == 0)
        seconds = [maps[:, :: max(1, round(fps))] for maps in layers]
        if seconds[0].shape[1] > 1:
            found["max_running"] = max_running(seconds)
    return found


def change(video: Tensor) -> Tensor:
    """Mean absolute change of each frame from the one before, `n t-1` in grey levels."""
    frames = video.float()
    return (frames[:, 1:] - frames[:, :-1]).abs().mean((2, 3, 4))


def jerk(video: Tensor) -> Tensor:
    """How badly the mean of its neighbours tells a frame, `n` in grey levels."""
    frames = video.float()
    return (frames[:, 1:-1] - (frames[:, 2:] + frames[:, :-2]) / 2).abs().mean((1, 2, 3, 4))


def sharpness(video: Tensor) -> Tensor:
    """Mean absolute Laplacian of the grey frames, `n`."""
    grey = video.float().mean(-1)
    inner = grey[..., 1:-1, 1:-1]
    around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    return (4 * inner - around).abs().mean((1, 2, 3))


def displacement(video: Tensor) -> Tensor:
    """Where each block of a frame goes in the next, `n t-1 h w 2` in pixels of 64 (y, x).

    The shift of at most 5 pixels whose block fits best; one that fits no better than staying by
    half a grey level counts as staying, so that flat blocks and faint noise do not move.
    """
    grey = video.float().mean(-1)
    scale = SIDE / min(grey.shape[2:])
    if scale < 1:
        size = [round(side * scale) for side in grey.shape[2:]]
        grey = F.interpolate(grey, size=size, mode="area")
    before, after = grey[:, :-1], grey[:, 1:]
    padded = F.pad(after, (REACH,) * 4, mode="replicate")
    height, width = before.shape[2:]
    best = _misfit(before, after) - SLACK
    shifts = [(y, x) for y in range(-REACH, REACH + 1) for x in range(-REACH, REACH + 1)]
    where = torch.zeros(*best.shape, 2)
    for y, x in sorted(shifts, key=lambda each: each[0] ** 2 + each[1] ** 2)[1:]:
        shifted = padded[..., REACH + y : REACH + y + height, REACH + x : REACH + x + width]
        cost = _misfit(before, shifted)
        better = cost < best
        best = torch.where(better, cost, best)
        where[better] = torch.tensor([y, x], dtype=where.dtype)
    return where * max(1.0, scale)


def _misfit(before: Tensor, after: Tensor) -> Tensor:
    return F.avg_pool2d((after - before).abs(), min(BLOCK, *before.shape[2:]))


def max_running(maps: list[Tensor]) -> Tensor:
    """Max Running LPIPS, `n`: the largest distance of a frame to the next (Panda-70M, 2402.19479).

    Args:
        maps: features of frames a second apart, `n t c h w` a layer.
    """
    return gap([each[:, 1:] for each in maps], [each[:, :-1] for each in maps]).amax(1)


def persistence(maps: Tensor, where: Tensor) -> Tensor:
    """How much the features of a region stay what they were, `n`; nan where there is no region.

    The mean over frames of the cosine with the first frame and with the one before (VBench's
    subject consistency), of features averaged over the region.

    Args:
        maps: features of frames, `n t c h w`.
        where: the region, `n h w` bool, of any size.
    """
    mask = F.interpolate(where[:, None].float(), size=maps.shape[3:], mode="area")  # n 1 h w
    summed = reduce(maps * mask[:, None], "n t c h w -> n t c", "sum")
    pooled = F.normalize(summed, dim=-1)
    first = (pooled[:, 1:] * pooled[:, :1]).sum(-1)
    before = (pooled[:, 1:] * pooled[:, :-1]).sum(-1)
    kept = ((first + before) / 2).mean(1)
    return kept.masked_fill(rearrange(mask, "n 1 h w -> n (h w)").sum(1) == 0, torch.nan)
