"""Motion, flicker and frozen frames of videos, and how consistent things stay over time."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional as F

from t2v.evaluation.metrics.motion import MOVES, motion
from t2v.evaluation.metrics.reconstruction import edge_jumps
from t2v.evaluation.networks import Networks
from t2v.evaluation.types import CHUNK, Better, Measurements, NotRun, PerVideo, Videos, at_least
from t2v.nets.features import FrameNet, perceptual_distance

FROZEN = 0.5  # grey levels of change under which a frame repeats the one before
LEVELS = "grey levels of 255"
FOLLOWED = ("motion", "warp_error")  # unknown where the flow is


def load(networks: Networks) -> FrameNet | None:
    """Return the network of perceptual distance; None: none is named."""
    return networks.perceptual


def measure(videos: Videos, net: FrameNet | None) -> Measurements:
    """Return motion, beside every figure that a still video would win."""
    at_least(videos.video[0], 3, "dynamics of a video, frame by frame,")
    second = max(1, round(videos.fps))  # in frames
    parts = [_chunk(each, videos.fps, net) for each in videos.video.split(CHUNK)]
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    network = net.name if net else ""
    better: dict[str, tuple[Better, str]] = {
        "motion": ("", "optical flow, a mean over all pixels, % of the shorter side a second"),
        "warp_error": (
            "lower",
            "Lai et al. 2018: mean square that flow leaves unexplained, of [0, 1], times 1000",
        ),
        "frozen": ("", f"share of steps that change under {FROZEN:g} grey levels"),
        "flickering": ("higher", "VBench's formula: 1 - mean change / 255"),
        "jerk": ("lower", f"half of the second difference, {LEVELS}"),
        "sharpness": ("", f"mean absolute Laplacian, {LEVELS}"),
        "subject": ("higher", f"VBench's formula where flow is {MOVES:g} pixels of 64, {network}"),
        "background": ("higher", f"VBench's formula where flow is less than that, {network}"),
        "max_running": ("lower", f"Panda-70M's, the largest change within a second, {network}"),
    }
    found: Measurements = {}
    for name, (sense, method) in better.items():
        if name in values:
            off_scale = values["off"].bool() if name in FOLLOWED else None
            found[name] = PerVideo(
                values[name], sense, method, is_part=name == "frozen", off_scale=off_scale
            )
        elif network:
            count = videos.video.shape[1]
            found[name] = NotRun(f"{count} frames last less than a second of {second}")
        else:
            found[name] = NotRun("no network is named: perceptual=vae or a model")
    return found | _blocks(videos)


def _blocks(videos: Videos) -> Measurements:
    if videos.block is None:
        return {"block_edges": NotRun("the model does not say how large its latents are")}
    values = block_edges(videos.video, videos.block)
    return {"block_edges": PerVideo(values, "lower", block_words(videos.block))}


def block_edges(video: Tensor, block: int) -> Tensor:
    """Return the jumps of the grey frames at the edges of latents over those elsewhere, `n`.

    Args:
        video: `n t h w c`, uint8.
        block: pixels, each way, that a latent stands for.
    """
    return torch.cat([edge_jumps(each.float().mean(-1), block) for each in video.split(CHUNK)])


def block_words(block: int) -> str:
    """Return how `block_edges` is measured, in words."""
    return f"jumps at every {block} pixels, where latents meet, over those elsewhere; 1: none shows"


def _chunk(video: Tensor, fps: float, net: FrameNet | None) -> dict[str, Tensor]:
    moves = motion(video, fps)
    found = {
        "off": moves.off_scale.float(),
        "motion": moves.speed,
        "warp_error": moves.warp_error,
        "frozen": (change(video) < FROZEN).float().mean(1),
        "flickering": 1 - change(video).mean(1) / 255,
        "jerk": jerk(video),
        "sharpness": sharpness(video),
    }
    if net is not None:
        layers = net.maps(video)  # n t c h w each
        regions = {"subject": moves.where, "background": ~moves.where}
        found |= {name: persistence(layers[-1], where) for name, where in regions.items()}
        seconds = [maps[:, :: max(1, round(fps))] for maps in layers]
        if seconds[0].shape[1] > 1:
            found["max_running"] = max_running(seconds)
    for name in set(FOLLOWED) & set(found):
        found[name] = found[name].masked_fill(moves.off_scale, torch.nan)
    return found


def change(video: Tensor) -> Tensor:
    """Return the mean absolute change of each frame from the one before, `n t-1` in grey levels."""
    frames = video.float()
    return (frames[:, 1:] - frames[:, :-1]).abs().mean((2, 3, 4))


def jerk(video: Tensor) -> Tensor:
    """Return the error of predicting a frame as the mean of its neighbours, `n` in grey levels."""
    frames = video.float()
    return (frames[:, 1:-1] - (frames[:, 2:] + frames[:, :-2]) / 2).abs().mean((1, 2, 3, 4))


def sharpness(video: Tensor) -> Tensor:
    """Return the mean absolute Laplacian of the grey frames, `n`."""
    grey = video.float().mean(-1)
    inner = grey[..., 1:-1, 1:-1]
    around = grey[..., :-2, 1:-1] + grey[..., 2:, 1:-1] + grey[..., 1:-1, :-2] + grey[..., 1:-1, 2:]
    return (4 * inner - around).abs().mean((1, 2, 3))


def max_running(maps: list[Tensor]) -> Tensor:
    """Return Max Running LPIPS, `n`: the largest distance to a next frame (Panda-70M, 2402.19479).

    Args:
        maps: features of frames a second apart, `n t c h w` a layer.
    """
    return perceptual_distance(
        [each[:, 1:] for each in maps], [each[:, :-1] for each in maps]
    ).amax(1)


def persistence(maps: Tensor, where: Tensor) -> Tensor:
    """Return the consistency of a region's features over time, `n`; nan where there is no region.

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
