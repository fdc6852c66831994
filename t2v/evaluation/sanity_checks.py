"""Checks for three ways to score well with bad videos: standing still, blur, and copying."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from t2v.data.world_shards import read_rendered, read_shards
from t2v.evaluation.rows import MODEL, REAL
from t2v.evaluation.shares import wilson
from t2v.evaluation.types import Measurements, PerVideo, Videos

MOVES = 1.0  # % of the shorter side a second above which a real clip counts as moving
STILL_SHARE = 0.1  # of the real clip's motion
ALWAYS_FROZEN = 0.9
BLURRED_SHARE = 0.5  # of the real clip's sharpness
GRID = (5, 16, 16)  # clips are compared as means over so many parts of time, height and width

Marks = dict[str, Tensor]  # of each check, whether a video fails it, `n` bool


@dataclass(frozen=True)
class Suspicions:
    """The videos that fail a check, a warning for each check that many fail, and texts to show."""

    marks: Marks
    warnings: list[str]
    texts: dict[str, tuple[str, ...]] = field(default_factory=dict)


def suspicions(
    model: Videos,
    real: Videos | None,
    dynamics: dict[str, Measurements] | None,
    training: str | None,
) -> Suspicions:
    """Check the model's videos, against their real clips where there are any.

    Args:
        dynamics: measurements of `metrics.dynamics` by row, those of `MODEL` and `REAL` among them;
            None: nothing is checked.
        training: folder of the training clips; None: copying is not checked.
    """
    if dynamics is None:
        return Suspicions({}, [])
    measured = dynamics

    def values(row: str, name: str) -> Tensor:
        found = measured[row][name]
        assert isinstance(found, PerVideo)
        return found.values

    motion, frozen = values(MODEL, "motion"), values(MODEL, "frozen")
    if real is None:
        marks = {"still": still(motion, frozen, None)}
        return Suspicions(marks, warnings(marks, len(motion)))
    real_motion = values(REAL, "motion")
    marks = {
        "still": still(motion, frozen, real_motion),
        "blurred": blurred(values(MODEL, "sharpness"), values(REAL, "sharpness")),
    }
    texts: dict[str, tuple[str, ...]] = {}
    if training is not None:
        distance, captions = nearest_training(model.video, training)
        new, _ = nearest_training(real.video, training)
        marks["copied"] = copied(distance, new)
        texts["nearest training clip"] = tuple(
            f"{each:.1f} grey levels from '{caption}'; new clips are {new.min():.1f} or more away"
            for each, caption in zip(distance.tolist(), captions, strict=True)
        )
    return Suspicions(marks, warnings(marks, int((real_motion > MOVES).sum())), texts)


def still(motion: Tensor, frozen: Tensor, real_motion: Tensor | None) -> Tensor:
    """Return which videos stand still though their real clip moves; without one, those frozen.

    Args:
        motion, real_motion: % of the shorter side a second, `n`.
        frozen: share of frozen steps, `n`.
    """
    if real_motion is None:
        return frozen >= ALWAYS_FROZEN
    return (real_motion > MOVES) & (motion < STILL_SHARE * real_motion)


def blurred(sharpness: Tensor, real_sharpness: Tensor) -> Tensor:
    """Return which videos have less than half the sharpness of their real clip, `n`."""
    return sharpness < BLURRED_SHARE * real_sharpness


def copied(distance: Tensor, real_distance: Tensor) -> Tensor:
    """Return which videos are nearer to a training clip than any new real clip is, `n`."""
    return distance < real_distance.min()


def nearest_training(video: Tensor, folder: str) -> tuple[Tensor, list[str]]:
    """Return the distance of each video to the nearest training clip, and that clip's caption.

    The root mean square difference of coarse clips, 5 x 16 x 16 colours, in grey levels.

    Args:
        video: `n t h w c`, uint8.
        folder: clips of `t2v world`.

    Raises:
        UserError: see `read_shards`.
    """
    clips = read_rendered(folder)
    ours, found = _coarse(video), []
    for shard, _ in read_shards(folder):
        found.append(torch.cdist(ours, _coarse(shard)))
    distance, index = torch.cat(found, dim=1).min(1)
    captions = [clips[i].caption for i in index.tolist()]
    return distance / ours.shape[1] ** 0.5, captions


def _coarse(video: Tensor) -> Tensor:
    parts = [
        F.adaptive_avg_pool3d(rearrange(each.float(), "n t h w c -> n c t h w"), GRID)
        for each in video.split(64)
    ]
    return torch.cat(parts).flatten(1)


def warnings(marks: Marks, moving: int) -> list[str]:
    """Return a sentence for each check that more videos fail than chance explains.

    Args:
        marks: which videos are `still`, `blurred`, `copied`.
        moving: how many real clips move; where there are none, how many videos there are.
    """
    found = []
    if "still" in marks and (count := int(marks["still"].sum())) > max(2, 0.25 * moving):
        found.append(
            f"STILL VIDEO: {count} of {moving} videos that should move do not. Their consistency, "
            "flickering and smoothness are those of a photograph."
        )
    for name, text in (
        (
            "blurred",
            "BLURRED VIDEO: {} of {} videos have less than half a real clip's sharpness.",
        ),
        (
            "copied",
            "COPIED CLIPS: {} of {} videos are nearer to a training clip than any new clip is.",
        ),
    ):
        if name in marks:
            count, n = int(marks[name].sum()), len(marks[name])
            chance = 1 / (n + 1) if name == "copied" else 0.25
            if count > 2 and wilson(count, n)[0] > chance:
                found.append(text.format(count, n))
    return found
