"""The error of videos beside the clips they should be: PSNR, SSIM, seams, things and backdrop."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from t2v.evaluation.networks import Networks
from t2v.evaluation.types import Measurements, NotRun, PerVideo, Videos
from t2v.nets.features import FrameNet

HIGHEST_PSNR = 100.0  # dB, for equal videos, whose ratio is infinite
WINDOW = 7
FRAMES = 32  # whose windows are compared at once


@dataclass(frozen=True)
class Nets:
    """A network of perceptual distance, and the strides of the model's VAE; None: there is none."""

    perceptual: FrameNet | None = None
    strides: tuple[int, int] | None = None  # pixels, frames


def load(networks: Networks) -> Nets:
    """Return the network of perceptual distance and the strides of the model's VAE."""
    if networks.vae is None:
        return Nets(networks.perceptual)
    vae = networks.vae.config
    return Nets(networks.perceptual, (vae.scale_factor_spatial, vae.scale_factor_temporal))


def measure(videos: Videos, nets: Nets) -> Measurements:
    """Return PSNR, SSIM, seams and perceptual distance of each video to its real clip."""
    if videos.real is None:
        return {"psnr": NotRun("these prompts have no real clips")}
    found: Measurements = {
        "psnr": PerVideo(
            psnr(videos.video, videos.real), "higher", "dB to the real clip, at most 100"
        ),
        "ssim": PerVideo(
            ssim(videos.video, videos.real),
            "higher",
            f"windows of {WINDOW}x{WINDOW}, as scikit-image",
        ),
        **_seams(videos.video, videos.real, nets.strides),
    }
    if videos.mask is not None:
        inside = videos.mask > 127
        for name, where in (("psnr_things", inside), ("psnr_backdrop", ~inside)):
            values = psnr(videos.video, videos.real, where)
            pixels = "of the things' pixels" if name == "psnr_things" else "of all others"
            found[name] = PerVideo(values, "higher", f"dB {pixels}, at most 100")
    if nets.perceptual is None:
        found["perceptual"] = NotRun("no network is named: perceptual=vae or a model")
    else:
        net = nets.perceptual
        distances = [net.distance(ours, theirs).mean(1) for ours, theirs in videos.pairs()]
        found["perceptual"] = PerVideo(torch.cat(distances), "lower", net.name)
    return found


def _seams(video: Tensor, real: Tensor, strides: tuple[int, int] | None) -> Measurements:
    if strides is None:
        return {"seam": NotRun("the model has no VAE whose blocks could show")}
    space, time = strides
    elsewhere = "over those elsewhere; 1: no seam"
    return {
        "seam": PerVideo(
            seam(video, real, space),
            "lower",
            f"jumps of the error at every {space} pixels {elsewhere}",
        ),
        "seam_time": PerVideo(
            seam_time(video, real, time),
            "lower",
            f"jumps of the error at every {time} frames {elsewhere}",
        ),
    }


def psnr(video: Tensor, real: Tensor, where: Tensor | None = None) -> Tensor:
    """Return the peak signal-to-noise ratio of each video in dB, `n`, at most 100 (equal videos).

    Args:
        video, real: `n t h w c`, uint8.
        where: the pixels that count, `n t h w` bool; a video without any gives nan.
    """
    squares = torch.cat(
        [
            (ours.float() - theirs.float()).square().mean(-1)
            for ours, theirs in zip(video.split(1), real.split(1), strict=True)
        ]
    ).double()  # n t h w
    counts = torch.ones_like(squares) if where is None else where.double()
    error = (squares * counts).flatten(1).sum(1) / counts.flatten(1).sum(1)
    return (10 * torch.log10(255**2 / error)).clamp(max=HIGHEST_PSNR)


def ssim(video: Tensor, real: Tensor) -> Tensor:
    """Return the structural similarity of each video, `n`, the mean over frames and colours.

    Wang et al. 2004 with a uniform window of 7 pixels and sample covariance, as scikit-image's
    `structural_similarity`.

    Args:
        video, real: `n t h w c`, uint8, at least 7 pixels high and wide.
    """
    pieces = [
        zip(a.split(FRAMES), b.split(FRAMES), strict=True) for a, b in zip(video, real, strict=True)
    ]
    return torch.stack([torch.cat([_ssim(*each) for each in piece]).mean() for piece in pieces])


def _ssim(video: Tensor, real: Tensor) -> Tensor:
    """The similarity of each window of frames `t h w c`, `t c y x`."""
    x, y = (rearrange(each.double(), "t h w c -> t c h w") for each in (video, real))
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    var_x = unbiased * (_window_mean(x * x) - mean_x**2)
    var_y = unbiased * (_window_mean(y * y) - mean_y**2)
    both = unbiased * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def _window_mean(x: Tensor) -> Tensor:
    """The mean of each window, down and then across: 14 additions a pixel in place of 49."""
    return F.avg_pool2d(F.avg_pool2d(x, (WINDOW, 1), 1), (1, WINDOW), 1)


def seam(video: Tensor, real: Tensor, block: int) -> Tensor:
    """Return the jumps of the error at the borders of blocks over those elsewhere, `n`; 1: no seam.

    Args:
        video, real: `n t h w c`, uint8.
        block: pixels between two borders, in height and width.
    """
    return edge_jumps((video.float() - real.float()).mean(-1), block)


def edge_jumps(grey: Tensor, block: int) -> Tensor:
    """Return the jumps at the borders of blocks over those elsewhere, `n`; 1: no block shows.

    Args:
        grey: `n t h w`; nan where no border of a block is inside.
        block: pixels between two borders, in height and width.
    """
    across = rearrange(grey.diff(dim=3).abs(), "n t h w -> n w (t h)").mean(2)
    down = rearrange(grey.diff(dim=2).abs(), "n t h w -> n h (t w)").mean(2)
    jumps = torch.cat((across, down), dim=1)
    border = torch.cat([torch.arange(1, n.shape[1] + 1) % block == 0 for n in (across, down)])
    return _ratio(jumps, border)


def seam_time(video: Tensor, real: Tensor, group: int) -> Tensor:
    """Return the jumps of the error where frames of two latents meet over those elsewhere, `n`.

    The first frame stands alone, then come groups of `group` frames.
    """
    error = (video.float() - real.float()).mean(-1)
    jumps = error.diff(dim=1).abs().mean((2, 3))  # n t
    return _ratio(jumps, torch.arange(jumps.shape[1]) % group == 0)


def _ratio(jumps: Tensor, border: Tensor) -> Tensor:
    if border.all() or not border.any():
        return torch.full((len(jumps),), math.nan)
    at, elsewhere = jumps[:, border].mean(1), jumps[:, ~border].mean(1)
    return torch.where(at == elsewhere, torch.ones_like(at), at / elsewhere.clamp(min=1e-6))
