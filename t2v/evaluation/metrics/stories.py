"""Long videos made window by window: seams, drift, flicker, and scenes that change as asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from t2v.evaluation.metrics.attributes import ATTRIBUTES, Answer, Truth, answers, right
from t2v.evaluation.metrics.dynamics import change, sharpness
from t2v.world.labels import THING
from t2v.world.oracle import WorldOracle

CELL = 8  # pixels; flicker is of places, not of the edges of what moves


@dataclass(frozen=True)
class StoryScene:
    """The frames `start` to `end` (exclusive) of a story, and the scene that they should show."""

    start: int
    end: int
    truth: Truth


def seam_energy(video: Tensor, edges: Sequence[int]) -> Tensor:
    """Return the step across each window edge over the mean step inside windows, `n edges`.

    A step is the mean absolute change from one frame to the next. 1: the edge is like any other
    step; nan: nothing moves, at the edge or elsewhere.

    Args:
        video: `n t h w c`, uint8.
        edges: the first frame of every window but the first. A cut that was asked for is no edge.
    """
    steps = change(video)  # n t-1
    at = torch.zeros(steps.shape[1], dtype=torch.bool)
    at[[edge - 1 for edge in edges]] = True
    return steps[:, at] / steps[:, ~at].mean(1, keepdim=True)


def colour_drift(video: Tensor, span: int) -> Tensor:
    """Return how far the mean colour of each `span` frames is from that of the first, `n k` in %.

    The length of the difference over the length of the first, both in RGB. Frames behind the last
    whole span do not count.

    Args:
        video: `n t h w c`, uint8.
        span: frames, such as those of a window: one period of what moves.
    """
    whole = video[:, : video.shape[1] // span * span].float()
    colour = reduce(whole, "n (k span) h w c -> n k c", "mean", span=span)
    start = colour[:, :1]
    return 100 * (colour - start).norm(dim=-1) / start.norm(dim=-1)


def sharpness_drift(video: Tensor, span: int) -> Tensor:
    """Return how much sharper each `span` frames are than the first, `n k` in %, below 0: blurred.

    Sharpness is the mean absolute Laplacian; arguments as in `colour_drift`.
    """
    whole = video[:, : video.shape[1] // span * span]
    windows = rearrange(whole, "n (k span) h w c -> (n k) span h w c", span=span)
    sharp = rearrange(sharpness(windows), "(n k) -> n k", n=len(video))
    return 100 * (sharp / sharp[:, :1] - 1)


def flicker(video: Tensor) -> Tensor:
    """Return how far places blink from frame to frame, `n` in grey levels.

    Half of the distance of a frame from the mean of its neighbours, in means over cells of 8 x 8
    pixels: brightness that alternates by plus and minus `a` gives `a`, a steady change of it 0.
    What moves adds a little, so read it beside real clips.

    Args:
        video: `n t h w c`, uint8; at least 3 frames of 8 x 8 pixels.
    """
    height, width = (side // CELL * CELL for side in video.shape[2:4])
    whole = video[:, :, :height, :width].float()
    cells = reduce(whole, "n t (y p) (x q) c -> n t y x", "mean", p=CELL, q=CELL)
    off = cells[:, 1:-1] - (cells[:, 2:] + cells[:, :-2]) / 2
    return off.abs().mean((1, 2, 3)) / 2


def scene_answers(oracle: WorldOracle, video: Tensor, scenes: Sequence[StoryScene]) -> list[Answer]:
    """Return what the oracle reads in each scene's own frames of a story `t h w c` uint8."""
    return [answers(oracle, video[None, scene.start : scene.end])[0] for scene in scenes]


def switches(scenes: Sequence[StoryScene], read: Sequence[Answer]) -> list[bool]:
    """Return of each scene but the first whether all that should change has become as asked.

    Scenes in which nothing changes are left out.

    Args:
        read: of each scene, as `scene_answers` gives it.
    """
    values = right([scene.truth for scene in scenes], read)
    found = []
    for index in range(1, len(scenes)):
        before, after = scenes[index - 1].truth, scenes[index].truth
        asked = [
            bool(values[attribute.name][index])
            for attribute in ATTRIBUTES
            if attribute.asked(after)
            and _of(before, attribute.heads) != _of(after, attribute.heads)
        ]
        found += [all(asked)] if asked else []
    return found


def identity_kept(scenes: Sequence[StoryScene], read: Sequence[Answer]) -> list[bool]:
    """Return of each scene but the first whether what should stay is read as in the scene before.

    What should stay: shape and colour of a thing where the two scenes agree on them. Scenes that
    agree on neither are left out. It is consistency: a thing that is wrong throughout is kept.
    """
    found = []
    for index in range(1, len(scenes)):
        before, after = scenes[index - 1].truth, scenes[index].truth
        heads = [
            f"{name}{slot}"
            for slot, pair in enumerate(zip(before["things"], after["things"], strict=False), 1)
            for name in ("shape", "colour")
            if slot <= 2 and pair[0][name] == pair[1][name]
        ]
        same = [read[index - 1][head] == read[index][head] for head in heads]
        found += [all(same)] if same else []
    return found


def _of(truth: Truth, heads: Sequence[str]) -> list[Any]:
    """The truth's value of each head; None where the scene has no such thing."""
    values: list[Any] = []
    for head in heads:
        name, slot = head.rstrip("12"), head[-1]
        if name not in THING:
            values.append(truth[head])
            continue
        things = truth["things"][int(slot) - 1 : int(slot)]
        values.append(things[0][name] if things else None)
    return values
