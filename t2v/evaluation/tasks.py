"""Suites in which a part of each clip is given: which part, and what is asked for beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch

from t2v.errors import UserError
from t2v.world.grammar import COLOURS, SHAPES, UNSPUN, Scene, Thing, pick

TABLES: dict[str, Collection[str]] = {"shape": SHAPES, "colour": COLOURS}


@dataclass(frozen=True)
class Task:
    """The part of each clip that a suite gives.

    Args:
        gives: in words, for the report.
        frames: the numbers of the frames that are given, of so many frames, for a VAE that joins
            so many frames to one; None: all of them, or a part of each.
        changes: what of a thing is asked for otherwise than the given clip shows it.
    """

    gives: str
    frames: Callable[[int, int], list[int]] | None = None
    changes: tuple[str, ...] = ()


def _half(count: int, stride: int) -> list[int]:
    """The first half, as many frames as whole latents have."""
    return list(range(stride * ((count - 1) // (2 * stride)) + 1))


def _latents_at_both_ends(count: int, stride: int) -> list[int]:
    return [0, *range(count - stride, count)]


FIRST, ENDS, CONTINUE, BETWEEN = "first", "ends", "continue", "between"
INTERPOLATE, REGION, EDIT, VIA_IMAGE = "interpolate", "region", "edit", "via_image"
REFERENCE = "reference"
TASKS = {
    FIRST: Task("the first frame", lambda count, stride: [0]),
    ENDS: Task("the first and the last frame", lambda count, stride: [0, count - 1]),
    CONTINUE: Task("the first half of the frames", _half),
    BETWEEN: Task("the first frame and those of the last latent", _latents_at_both_ends),
    INTERPOLATE: Task(
        "the first frame and the last one of each latent",
        lambda count, stride: list(range(0, count, stride)),
    ),
    REGION: Task(
        "all but the right half where two things differ, else all but a box around the things; "
        "the clip shows another thing there",
        changes=("shape", "colour"),
    ),
    EDIT: Task("the clip with a thing of another colour", changes=("colour",)),
    VIA_IMAGE: Task("a picture that the model made of the prompt"),
    REFERENCE: Task("a picture of the thing at another place; the prompt does not say what it is"),
}


def given_frames(name: str, count: int, stride: int) -> list[int]:
    """Return the numbers of the frames that a suite gives whole.

    Args:
        name: of a suite whose `frames` is set.
        count: frames of the clip.
        stride: frames that the VAE joins to one latent.

    Raises:
        UserError: none are left to be made.
    """
    task = TASKS[name]
    assert task.frames is not None
    frames = sorted(set(task.frames(count, stride)))
    if len(frames) >= count or frames[0] < 0:
        raise UserError(
            f"suites=[{name}]: gives {task.gives}, so of {count} frames none is left to be made. "
            f"Evaluate at least {2 * stride + 1} frames: num_frames={2 * stride + 1}."
        )
    return frames


def differ(scene: Scene) -> bool:
    """Return whether a scene shows two things that are not alike."""
    return len(scene.things) == 2 and scene.things[0] != scene.things[1]


def changed(scene: Scene, names: tuple[str, ...], generator: torch.Generator) -> Scene:
    """Return the scene with another thing in place of the last, or of all where all are alike.

    Args:
        names: what is another: `shape`, `colour`, or both.
    """
    last, others = scene.things[-1], [each for each in scene.things if each != scene.things[-1]]
    while True:
        new = replace(last, **{name: _another(last, name, generator) for name in names})
        if new not in others:
            break
    things = tuple(new if each == last else each for each in scene.things)
    return replace(scene, things=things)


def _another(thing: Thing, name: str, generator: torch.Generator) -> str:
    words = [
        word
        for word in TABLES[name]
        if word != getattr(thing, name)
        and not (name == "shape" and thing.motion == "spin" and word in UNSPUN)
    ]
    return pick(words, generator)
