"""The choice of what a suite gives of each clip: frames, all but a region, or all to be edited."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from t2v.evaluation.given import Given
from t2v.evaluation.suites import Suite
from t2v.evaluation.tasks import EDIT, REFERENCE, TASKS, given_frames
from t2v.world.grammar import Scene
from t2v.world.story import Story

MARGIN = 2  # pixels around things, to which their soft edges reach
DIFFERS = 2  # grey levels from which on a pixel belongs to a change


def given_of(suite: Suite, real: Tensor, mask: Tensor, stride: tuple[int, int]) -> Given | None:
    """Return what a suite gives of each clip; None: nothing, or nothing of a real clip.

    Args:
        real: the clips that the prompts describe, `n t h w c` uint8.
        mask: how much things cover each pixel of them, `n t h w` uint8.
        stride: pixels and frames that the VAE joins to one.

    Raises:
        UserError: nothing is left to be made.
    """
    if suite.task is None or suite.scenes is None:
        return None
    task, moving = TASKS[suite.task], torch.tensor([is_moving(each) for each in suite.scenes])
    if task.frames is not None:
        frames = given_frames(suite.task, real.shape[1], stride[1])
        kept = torch.zeros(mask.shape, dtype=torch.bool)
        kept[:, frames] = True
        return Given(real, ~kept, kept, moving, tuple(frames))
    if suite.sources is None or suite.task == REFERENCE:
        return None
    clip, other_mask = suite.given_clips(*real.shape[1:4])
    if suite.task == EDIT:
        everything = torch.ones(mask.shape, dtype=torch.bool)
        return Given(clip, everything, ~near(torch.maximum(mask, other_mask)), moving)
    halves = torch.tensor([topic == "half" for topic in suite.topics])
    made = torch.where(halves[:, None, None, None], right_half(mask), boxes(clip, real, stride[0]))
    return Given(clip, made, ~made, moving)


def is_moving(scene: Scene | Story) -> bool:
    """Return whether the camera or a thing moves, in any scene of a story."""
    if isinstance(scene, Story):
        return any(is_moving(each) for each in scene.scenes)
    return scene.camera != "still" or any(thing.motion != "still" for thing in scene.things)


def near(mask: Tensor) -> Tensor:
    """Return the pixels that things cover or are within 2 pixels of, `n t h w` bool."""
    covered = (mask > 0).float()
    return F.max_pool2d(covered, 2 * MARGIN + 1, 1, MARGIN) > 0


def right_half(mask: Tensor) -> Tensor:
    """Return the right half of every frame of `n t h w`, bool."""
    right = torch.arange(mask.shape[3]) >= mask.shape[3] // 2
    return right.expand(mask.shape)


def boxes(clip: Tensor, real: Tensor, block: int) -> Tensor:
    """Return the least box of whole blocks that holds all that differs, `n t h w` bool.

    It is the same in all frames of a clip.

    Args:
        clip, real: `n t h w c` uint8.
        block: pixels of a block's side.
    """
    off = (clip.int() - real.int()).abs().amax((1, 4)) > DIFFERS  # n h w
    rows, columns = (_span(off.any(axis), block) for axis in (2, 1))
    return (rows[:, :, None] & columns[:, None, :])[:, None].expand(clip.shape[:4])


def _span(where: Tensor, block: int) -> Tensor:
    """From the first block that holds any to the last one, `n x` bool."""
    length = where.shape[1]
    padded = F.pad(where, (0, -length % block)).unflatten(1, (-1, block)).any(2).int()
    begun, ended = padded.cummax(1).values, padded.flip(1).cummax(1).values.flip(1)
    return (begun & ended).bool().repeat_interleave(block, 1)[:, :length]
