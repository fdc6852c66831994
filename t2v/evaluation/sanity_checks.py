"""Checks for three ways to score well with bad videos: standing still, blur, and copying."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from t2v.curation.shares import wilson
from t2v.evaluation.rows import MODEL, REAL
from t2v.evaluation.types import Measurements, PerVideo, Videos

if TYPE_CHECKING:  # it loads OpenCV, for which few evaluations ask
    from t2v.evaluation.copies import Nearest, TrainingClips

MOVES = 1.0  # % of the shorter side a second above which a real clip counts as moving
STILL_SHARE = 0.1  # of the real clip's motion
ALWAYS_FROZEN = 0.9
BLURRED_SHARE = 0.5  # of the real clip's sharpness

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
    training: TrainingClips | None,
) -> Suspicions:
    """Check the model's videos, against their real clips where there are any.

    Args:
        dynamics: measurements of `metrics.dynamics` by row, those of `MODEL` and `REAL` among them;
            None: nothing is checked.
        training: the training clips; None: copying is not checked.
    """
    if dynamics is None:
        return Suspicions({}, [])
    measured = dynamics

    def values(row: str, name: str) -> Tensor:
        found = measured[row][name]
        assert isinstance(found, PerVideo)
        return found.values

    motion, frozen = values(MODEL, "motion"), values(MODEL, "frozen")
    marks: Marks = {}
    texts: dict[str, tuple[str, ...]] = {}
    if training is not None:
        marks["copied"], texts["nearest training clip"] = _copies(model, real, training)
    if real is None:
        marks["still"] = still(motion, frozen, None)
        return Suspicions(marks, warnings(marks, len(motion)), texts)
    real_motion = values(REAL, "motion")
    marks["still"] = still(motion, frozen, real_motion)
    marks["blurred"] = blurred(values(MODEL, "sharpness"), values(REAL, "sharpness"))
    return Suspicions(marks, warnings(marks, int((real_motion > MOVES).sum())), texts)


def _copies(
    model: Videos, real: Videos | None, training: TrainingClips
) -> tuple[Tensor, tuple[str, ...]]:
    """Mark videos that are copies of training clips, and give words for each."""
    nearest = training.nearest(model)
    new = _distances(training.nearest(real)) if real is not None else None
    beside = "" if new is None else f"; new clips are {new.min():.2f} or more away"
    texts = tuple(
        f"{each.distance:.2f} from '{each.clip}'{beside}" if each.clip else f"none is near{beside}"
        for each in nearest
    )
    return copied(_distances(nearest), new, training.distance), texts


def _distances(nearest: list[Nearest]) -> Tensor:
    return torch.tensor([each.distance for each in nearest])


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


def copied(distance: Tensor, real_distance: Tensor | None, least: float) -> Tensor:
    """Return which videos are copies: near a training clip, and nearer than any new real clip, `n`.

    Args:
        distance, real_distance: of videos and of new real clips to their nearest training clip.
        least: the distance up to which a video is a copy.
    """
    near = distance <= least
    return near if real_distance is None else near & (distance < real_distance.min())


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
            "COPIED CLIPS: {} of {} videos show what a training clip shows, as `t2v trace` finds.",
        ),
    ):
        if name in marks:
            count, n = int(marks[name].sum()), len(marks[name])
            chance = 1 / (n + 1) if name == "copied" else 0.25
            if count > 2 and wilson(count, n)[0] > chance:
                found.append(text.format(count, n))
    return found
