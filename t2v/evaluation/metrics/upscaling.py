"""Enlarged videos beside bicubic ones and the clips rendered at that size."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from t2v.evaluation.metrics.dynamics import jerk, sharpness
from t2v.evaluation.metrics.reconstruction import psnr
from t2v.evaluation.types import CHUNK, Measurements, NotRun, PerVideo
from t2v.nets.features import FrameNet

EDGES = 0.02  # share of a clip's pixels, those of the steepest slopes, that count as edges


def measure(video: Tensor, real: Tensor, net: FrameNet | None) -> Measurements:
    """Return fidelity, sharpness and steadiness of enlarged videos, one value a video.

    Sharpness and jerk are shares of the real clip's: 1 is as sharp, and as steady.

    Args:
        video, real: `n t h w c`, uint8, of one size.
        net: of perceptual distance; None: it is not measured.
    """
    edges = edge_pixels(real)
    of_real = "over the real clip's"
    found: Measurements = {
        "psnr": PerVideo(psnr(video, real), "higher", "dB to the real clip, at most 100"),
        "psnr_edges": PerVideo(
            psnr(video, real, edges),
            "higher",
            f"dB of the {EDGES:.0%} of pixels where the real clip is steepest",
        ),
        "sharpness": PerVideo(
            sharpness(video) / sharpness(real), "", f"mean absolute Laplacian, {of_real}"
        ),
        "edge_sharpness": PerVideo(
            edge_slope(video, edges) / edge_slope(real, edges),
            "",
            f"mean slope at its edges, {of_real}",
        ),
        "jerk": PerVideo(jerk(video) / jerk(real), "", f"half of the second difference, {of_real}"),
    }
    if net is None:
        return found | {"perceptual": NotRun("no network is named")}
    distances = [
        net.distance(ours, theirs).mean(1)
        for ours, theirs in zip(video.split(CHUNK), real.split(CHUNK), strict=True)
    ]
    return found | {"perceptual": PerVideo(torch.cat(distances), "lower", net.name)}


def bicubic(video: Tensor, scale: int) -> Tensor:
    """Return videos `n t h w c` uint8 enlarged by bicubic interpolation: what must be beaten."""
    frames = rearrange(video.float(), "n t h w c -> (n t) c h w")
    large = F.interpolate(frames, scale_factor=scale, mode="bicubic", align_corners=False)
    large = rearrange(large, "(n t) c h w -> n t h w c", n=len(video))
    return large.round().clamp(0, 255).to(torch.uint8)


def edge_pixels(video: Tensor) -> Tensor:
    """Return the pixels of the steepest slopes of each video, `n t h w` bool: 2 % of them."""
    slope = _slope(video)
    flat = slope.flatten(1)
    least = flat.kthvalue(round((1 - EDGES) * flat.shape[1]), dim=1).values
    return slope > least[:, None, None, None]


def edge_slope(video: Tensor, edges: Tensor) -> Tensor:
    """Return the mean slope of the grey frames at the pixels of `edges`, `n` in levels a pixel."""
    return (_slope(video) * edges).flatten(1).sum(1) / edges.flatten(1).sum(1)


def _slope(video: Tensor) -> Tensor:
    """The length of the gradient of the grey frames by central differences, `n t h w`."""
    grey = video.float().mean(-1)
    down, across = torch.gradient(grey, dim=(2, 3))
    return torch.hypot(down, across)
