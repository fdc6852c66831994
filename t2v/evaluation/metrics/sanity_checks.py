"""Three ways to look good without being good, each found out: standing still, blur, copying."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from t2v.data.world_shards import read_rendered, read_shards
from t2v.evaluation.intervals import wilson

MOVES = 1.0  # % of the shorter side a second above which a real clip counts as moving
STILL_SHARE = 0.1  # of the real clip's motion
ALWAYS_FROZEN = 0.9
BLURRED_SHARE = 0.5  # of the real clip's sharpness
GRID = (5, 16, 16)  # clips are compared as means over so many parts of time, height and width

Marks = dict[str, Tensor]


def still(motion: Tensor, frozen: Tensor, real_motion: Tensor | None) -> Tensor:
    """Which videos stand still though their real clip moves; without one, those that are frozen.

    Args:
        motion, real_motion: % of the shorter side a second, `n`.
        frozen: share of frozen steps, `n`.
    """
    if real_motion is None:
        return frozen >= ALWAYS_FROZEN
    return (real_motion > MOVES) & (motion < STILL_SHARE * real_motion)


def blurred(sharpness: Tensor, real_sharpness: Tensor) -> Tensor:
    """Which videos have under half of the sharpness of their real clip, `n`."""
    return sharpness < BLURRED_SHARE * real_sharpness


def copied(distance: Tensor, real_distance: Tensor) -> Tensor:
    """Which videos lie nearer to a training clip than every new real clip does, `n`."""
    return distance < real_distance.min()


def nearest_training(video: Tensor, folder: str) -> tuple[Tensor, list[str]]:
    """How far each video is from the nearest training clip, in grey levels, and its caption.

    Root mean square of the differences of coarse clips, 5 x 16 x 16 colours; read shard by shard.

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
    """One sentence for each cheat that is more than a slip.

    Args:
        marks: which videos are `still`, `blurred`, `copied`.
        moving: how many of the real clips move, or of the videos where there are none.
    """
    told = []
    if "still" in marks and (count := int(marks["still"].sum())) > max(2, 0.25 * moving):
        told.append(
            f"STILL VIDEO: {count} of {moving} videos that should move do not. Their consistency, "
            "flickering and smoothness are those of a photograph."
        )
    for name, text in (
        ("blurred", "BLURRED VIDEO: {} of {} videos have under half of a real clip's sharpness."),
        (
            "copied",
            "COPIED CLIPS: {} of {} videos are nearer to a training clip than any new clip.",
        ),
    ):
        if name in marks:
            count, n = int(marks[name].sum()), len(marks[name])
            chance = 1 / (n + 1) if name == "copied" else 0.25
            if count > 2 and wilson(count, n)[0] > chance:
                told.append(text.format(count, n))
    return told
