"""Variety: the distance between videos of one prompt that differ in their seeds."""

from __future__ import annotations

from itertools import combinations

import torch
from einops import rearrange
from torch import Tensor

from t2v.evaluation.networks import Networks
from t2v.evaluation.types import Measurements, NotRun, PerVideo, Videos
from t2v.nets.features import FrameNet, perceptual_distance

FRAMES = 5  # of each video, evenly spaced, that features are taken of


def load(networks: Networks) -> FrameNet | None:
    """Return the network of perceptual distance; None: none is named."""
    return networks.perceptual


def measure(videos: Videos, net: FrameNet | None) -> Measurements:
    """Return the mean distance between the videos of each prompt, in pixels and in features."""
    if videos.draws is None:
        return {"pixels": NotRun("one video of each prompt is there: seeds=4 makes more")}
    pairs = f"of two of the {len(videos.draws) + 1} videos of a prompt, a mean over pairs"
    method = f"mean square difference {pairs}, values in [0, 1], times 1000"
    found: Measurements = {"pixels": PerVideo(apart(videos.video, videos.draws), "higher", method)}
    if net is None:
        return found | {"perceptual": NotRun("no network is named: perceptual=vae or a model")}
    distances = [
        _perceptual(torch.cat((video[None], draws)), net)
        for video, draws in zip(videos.video, videos.draws.unbind(1), strict=True)
    ]
    method = f"perceptual distance in {FRAMES} frames {pairs}, {net.name}"
    return found | {"perceptual": PerVideo(torch.stack(distances), "higher", method)}


def apart(video: Tensor, draws: Tensor) -> Tensor:
    """Return the mean square difference between the videos of each prompt, `n`, times 1000.

    The mean over pairs is twice the variance over the videos.

    Args:
        video: one of each prompt, `n t h w c` uint8.
        draws: the others, `k n t h w c`.
    """
    found = []
    for one, others in zip(video, draws.unbind(1), strict=True):
        levels = torch.cat((one[None], others)).float() / 255
        found.append(2 * levels.var(dim=0).mean())
    return 1000 * torch.stack(found)


def _perceptual(videos: Tensor, net: FrameNet) -> Tensor:
    """The mean perceptual distance of pairs of videos `k t h w c`."""
    length = videos.shape[1]
    frames = torch.linspace(0, length - 1, min(FRAMES, length)).round().long()
    layers = net.maps(videos[:, frames])  # k t d y x each
    distances = [
        perceptual_distance([each[[a]] for each in layers], [each[[b]] for each in layers])
        for a, b in combinations(range(len(videos)), 2)
    ]
    return rearrange(distances, "pairs 1 t -> pairs t").mean()
