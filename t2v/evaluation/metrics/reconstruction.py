"""How far a video is from the very clip it should be: PSNR, SSIM, seams, things and backdrop."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from t2v.evaluation.types import Column, Findings, Nets, NotRun, Videos

HIGHEST_PSNR = 100.0  # dB, for equal videos, whose ratio is infinite
WINDOW = 7


def reconstruction(videos: Videos, nets: Nets) -> Findings:
    """PSNR, SSIM and seams of each video beside its real clip; `perceptual` by the named net."""
    if videos.real is None:
        return {"psnr": NotRun("these prompts have no real clips")}
    space, time = nets.strides
    found: Findings = {
        "psnr": Column(
            psnr(videos.video, videos.real), "higher", "dB to the real clip, at most 100"
        ),
        "ssim": Column(
            ssim(videos.video, videos.real),
            "higher",
            f"windows of {WINDOW}x{WINDOW}, as scikit-image",
        ),
        "seam": Column(
            seam(videos.video, videos.real, space),
            "lower",
            f"jumps of the error at every {space} pixels over those elsewhere; 1: no seam",
        ),
        "seam_time": Column(
            seam_time(videos.video, videos.real, time),
            "lower",
            f"jumps of the error at every {time} frames over those elsewhere; 1: no seam",
        ),
    }
    if videos.mask is not None:
        inside = videos.mask > 127
        for name, where in (("psnr_things", inside), ("psnr_backdrop", ~inside)):
            values = psnr(videos.video, videos.real, where)
            where_told = "of the things' pixels" if name == "psnr_things" else "of all others"
            found[name] = Column(values, "higher", f"dB {where_told}, at most 100")
    if nets.perceptual is None:
        found["perceptual"] = NotRun("no network is named: perceptual=vae or a model")
    else:
        far = [nets.perceptual.distance(ours, theirs).mean(1) for ours, theirs in videos.pairs()]
        found["perceptual"] = Column(torch.cat(far), "lower", nets.perceptual.name)
    return found


def psnr(video: Tensor, real: Tensor, where: Tensor | None = None) -> Tensor:
    """Peak signal to noise in dB of each video, `n`; equal ones give 100, and so caps all.

    Args:
        video, real: `n t h w c`, uint8.
        where: the pixels that count, `n t h w` bool; a video without any gives nan.
    """
    squares = torch.cat(
        [
            (ours.float() - theirs.float()).square().mean(-1)
            for ours, theirs in zip(video.split(16), real.split(16), strict=True)
        ]
    ).double()  # n t h w
    counts = torch.ones_like(squares) if where is None else where.double()
    error = (squares * counts).flatten(1).sum(1) / counts.flatten(1).sum(1)
    return (10 * torch.log10(255**2 / error)).clamp(max=HIGHEST_PSNR)


def ssim(video: Tensor, real: Tensor) -> Tensor:
    """Structural similarity of each video, `n`, the mean over frames and colours.

    Wang et al. 2004 with a uniform window of 7 pixels and sample covariance, as scikit-image's
    `structural_similarity`.

    Args:
        video, real: `n t h w c`, uint8, at least 7 pixels high and wide.
    """
    return torch.stack([_ssim(a, b) for a, b in zip(video, real, strict=True)])


def _ssim(video: Tensor, real: Tensor) -> Tensor:
    x, y = (rearrange(each.double(), "t h w c -> t c h w") for each in (video, real))
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    var_x = unbiased * (_window_mean(x * x) - mean_x**2)
    var_y = unbiased * (_window_mean(y * y) - mean_y**2)
    both = unbiased * (_window_mean(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return (above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean()


def _window_mean(x: Tensor) -> Tensor:
    """The mean of each window, down and then across: 14 additions a pixel in place of 49."""
    return F.avg_pool2d(F.avg_pool2d(x, (WINDOW, 1), 1), (1, WINDOW), 1)


def seam(video: Tensor, real: Tensor, block: int) -> Tensor:
    """How much more the error jumps at the borders of blocks than elsewhere, `n`; 1 is no seam.

    Args:
        video, real: `n t h w c`, uint8.
        block: pixels between two borders, in height and width.
    """
    error = (video.float() - real.float()).mean(-1)  # n t h w
    across = rearrange(error.diff(dim=3).abs(), "n t h w -> n w (t h)").mean(2)
    down = rearrange(error.diff(dim=2).abs(), "n t h w -> n h (t w)").mean(2)
    jumps = torch.cat((across, down), dim=1)
    border = torch.cat([torch.arange(1, n.shape[1] + 1) % block == 0 for n in (across, down)])
    return _ratio(jumps, border)


def seam_time(video: Tensor, real: Tensor, group: int) -> Tensor:
    """How much more the error jumps where frames of two latents meet than elsewhere, `n`.

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
