"""Videos made of clips that were given in part: the made pixels, the kept ones, the seam."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from t2v.evaluation.given import Given
from t2v.evaluation.metrics.reconstruction import HIGHEST_PSNR, psnr
from t2v.evaluation.metrics.stories import seam_energy
from t2v.evaluation.networks import Networks
from t2v.evaluation.types import Measurements, NotRun, PerVideo, Videos


def load(networks: Networks) -> None:
    """Load nothing: pixels are compared as they are."""


def measure(videos: Videos, net: None) -> Measurements:
    """Return PSNR of what had to be made, PSNR of what had to stay, and the seam between them."""
    given, real = videos.given, videos.real
    assert given is not None and real is not None
    made = psnr(videos.video, real, given.made)
    still = "of those clips in which something moves"
    found: Measurements = {
        "psnr": PerVideo(made, "higher", "dB of what had to be made to the real clip, at most 100"),
        "psnr_moving": PerVideo(
            made.masked_fill(~given.moving, math.nan), "higher", f"the same, {still}"
        ),
    }
    if videos.mask is not None:
        things = psnr(videos.video, real, given.made & (videos.mask > 127))
        found["psnr_things"] = PerVideo(things, "higher", "the same, of the things' pixels")
    kept = psnr(videos.video, given.clip, given.kept)
    found["kept"] = PerVideo(kept, "higher", "dB of what should stay as it was given, at most 100")
    if given.through_vae is None:
        found["kept_over_vae"] = NotRun("the model has no VAE to compare with")
    else:
        over = kept - psnr(given.through_vae, given.clip, given.kept)
        method = "dB of the same over the given clip through the VAE alone; none for copies"
        copied = kept == HIGHEST_PSNR  # pixels that went through no VAE
        found["kept_over_vae"] = PerVideo(over.masked_fill(copied, math.nan), "higher", method)
    return found | _seam(videos.video, real, given)


def _seam(video: Tensor, real: Tensor, given: Given) -> Measurements:
    if given.frames:
        step = seam_energy(video, given.edges).mean(1)
        step = step.masked_fill(step.isinf(), math.nan)  # nothing moves but at the edges
        method = "steps between given and made frames over the other steps: compare real clips"
        return {"seam": PerVideo(step, "", method)}
    if not given.unknown().any():
        return {}
    method = "jumps of the error at the border of the region over those inside it; 1: no seam"
    return {"seam": PerVideo(border_jumps(video, real, given.made), "lower", method)}


def border_jumps(video: Tensor, real: Tensor, made: Tensor) -> Tensor:
    """Return the error's jumps at the border of a region over those inside it, `n`; 1: no seam.

    Args:
        video, real: `n t h w c`, uint8.
        made: the region, `n t h w` bool; nan where it has no border or no inside.
    """
    error = (video.float() - real.float()).mean(-1)
    at, inside = [], []
    for axis in (2, 3):
        length = error.shape[axis]
        first, second = made.narrow(axis, 0, length - 1), made.narrow(axis, 1, length - 1)
        jumps = error.diff(dim=axis).abs()
        at.append(_sums(jumps, first != second))
        inside.append(_sums(jumps, first & second))
    border, within = (torch.stack(each).sum(0) for each in (at, inside))
    ratio = (border[:, 0] / border[:, 1]) / (within[:, 0] / within[:, 1])
    ratio = ratio.masked_fill(ratio.isinf(), math.nan)
    equal = (border[:, 0] == 0) & (within[:, 0] == 0) & (border[:, 1] > 0)
    return torch.where(equal, torch.ones_like(ratio), ratio)


def _sums(values: Tensor, where: Tensor) -> Tensor:
    """The sum of the values at a place and their number, `n 2`."""
    total = (values * where).flatten(1).sum(1)
    return torch.stack((total, where.flatten(1).sum(1).float()), 1)
