"""Likeness of videos to those that a teacher makes of the same prompts, from the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from t2v.data.rng import keyed_generator
from t2v.evaluation.intervals import ratio
from t2v.evaluation.metrics.dynamics import block_edges, jerk, sharpness
from t2v.evaluation.metrics.reconstruction import HIGHEST_PSNR, psnr
from t2v.evaluation.metrics.variety import apart
from t2v.evaluation.networks import Networks
from t2v.evaluation.types import CHUNK, Measurements, NotRun, PerSet, PerVideo, Videos, at_least


def load(networks: Networks) -> None:
    """Load nothing: pixels are compared as they are."""


def measure(videos: Videos, net: None) -> Measurements:
    """Return PSNR to the teacher's videos, and artefacts and variety as shares of theirs."""
    if (taught := videos.taught) is None:
        return {"psnr": NotRun("no teacher is named: teacher=MODEL")}
    at_least(videos.video[0], 3, "jerk of a video, frame by frame,")

    def share(of: Callable[[Tensor], Tensor]) -> PerSet | NotRun:
        own, theirs = (_by_chunks(of, each) for each in (videos.video, taught.video))
        return _share(own, theirs, taught.name)

    near = f"dB to the videos of {taught.name} from the same noise; {HIGHEST_PSNR:g}: equal"
    found: Measurements = {
        "psnr": PerVideo(psnr(videos.video, taught.video), "higher", near),
        "jerk": share(jerk),
        "sharpness": share(sharpness),
    }
    if block := videos.block:
        found["block_edges"] = share(lambda video: block_edges(video, block))
    if videos.draws is not None and taught.draws is not None:
        own, theirs = apart(videos.video, videos.draws), apart(taught.video, taught.draws)
        found["variety"] = _share(own, theirs, taught.name)
    return found


def _by_chunks(of: Callable[[Tensor], Tensor], video: Tensor) -> Tensor:
    return torch.cat([of(each) for each in video.split(CHUNK)])


def _share(ours: Tensor, theirs: Tensor, name: str) -> PerSet | NotRun:
    found = ratio(ours, theirs, keyed_generator(0, "bootstrap"))
    if math.isnan(found.value):
        return NotRun(f"it is 0 or unknown in all videos of {name}")
    method = f"over that of {name}, a ratio of means; 1: as its videos"
    return PerSet(found.value, found.low, found.high, found.n, "", method)
