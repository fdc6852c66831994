"""Long videos made window by window: seams, drift, flicker, and scenes that change as asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from t2v.evaluation.metrics.attributes import (
    ATTRIBUTES,
    Answer,
    Truth,
    answers,
    answers_of_parts,
    oracle_name,
    right,
    scene_parts,
)
from t2v.evaluation.metrics.dynamics import change, sharpness
from t2v.evaluation.networks import Networks
from t2v.evaluation.types import Measurements, NotRun, PerVideo, Videos
from t2v.world.labels import THING
from t2v.world.oracle import WorldOracle

CELL = 8  # pixels; flicker is of places, not of the edges of what moves


@dataclass(frozen=True)
class StoryScene:
    """The frames `start` to `end` (exclusive) of a story, and the scene that they should show."""

    start: int
    end: int
    truth: Truth


def load(networks: Networks) -> WorldOracle | None:
    """Return the oracle that reads scenes; None: none is named."""
    return networks.oracle


def measure(videos: Videos, oracle: WorldOracle | None) -> Measurements:
    """Return seams, drift and flicker of films, and scenes that change, and do not, as asked."""
    video, joints = videos.video, videos.joints
    assert joints is not None and videos.real is not None

    def seam(film: Tensor) -> Tensor:
        found = seam_energy(film, joints.edges, joints.cuts).mean(1)
        return found.masked_fill(found.isinf(), math.nan)  # nothing moves but at the edges

    latents = seam_energy(video, joints.latents, (*joints.cuts, *joints.edges)).mean(1)
    colour, sharp = drift(video, videos.real, joints.spans)
    found: Measurements = {
        "seam": PerVideo(
            seam(video), "lower", "step across window edges over the steps inside scenes"
        ),
        "seam_over_vae": NotRun("the model has no VAE to compare with"),
        "latents": PerVideo(
            latents.masked_fill(latents.isinf(), math.nan),
            "lower",
            "step from latent to latent inside windows over the steps inside latents",
        ),
        "colour_drift": PerVideo(
            colour, "lower", "% by which colour is further off in the last scene than in the first"
        ),
        "sharpness_drift": PerVideo(
            sharp, "", "% by which the last scene is sharper beside the real one than the first"
        ),
        "flicker": PerVideo(flicker(video), "lower", "grey levels by which places blink"),
    }
    if joints.through_vae is not None:
        over = seam(video) / seam(joints.through_vae)
        method = "the seam over that of the real film through the VAE, at the same frames"
        found["seam_over_vae"] = PerVideo(over, "lower", method)
    return found | _scenes(videos, oracle)


def _scenes(videos: Videos, oracle: WorldOracle | None) -> Measurements:
    names = ("switch", "identity")
    if oracle is None or videos.truths is None:
        return dict.fromkeys(names, NotRun("no oracle is named: oracle=FOLDER"))
    parts = scene_parts(videos.truths, videos.video.shape[1])
    read = answers_of_parts(oracle, videos.video, parts)
    shares: dict[str, list[float]] = {name: [] for name in names}
    for index in range(len(videos)):
        own = [number for number, part in enumerate(parts) if part.video == index]
        scenes = [StoryScene(parts[i].start, parts[i].end, parts[i].truth) for i in own]
        answered = [read[i] for i in own]
        for name, judge in zip(names, (switches, identity_kept), strict=True):
            right_ones = judge(scenes, answered)
            shares[name].append(sum(right_ones) / len(right_ones) if right_ones else math.nan)
    method = {
        "switch": "share of new scenes in which all that should change is as asked",
        "identity": "share of new scenes whose thing is read as before, where it should stay",
    }
    return {
        name: PerVideo(
            torch.tensor(shares[name]),
            "higher",
            f"{method[name]}, {oracle_name(oracle)}",
            is_part=True,
        )
        for name in names
    }


def seam_energy(video: Tensor, edges: Sequence[int], without: Sequence[int] = ()) -> Tensor:
    """Return the step across each window edge over the mean step inside windows, `n edges`.

    A step is the mean absolute change from one frame to the next. 1: the edge is like any other
    step; nan: nothing moves, at the edge or elsewhere.

    Args:
        video: `n t h w c`, uint8.
        edges: the first frame of every window but the first. A cut that was asked for is no edge.
        without: first frames behind steps that do not count at all, such as cuts.
    """
    steps = change(video)  # n t-1
    at, off = torch.zeros(2, steps.shape[1], dtype=torch.bool)
    at[[edge - 1 for edge in edges]] = True
    off[[frame - 1 for frame in without]] = True
    return steps[:, at] / steps[:, ~(at | off)].mean(1, keepdim=True)


def drift(video: Tensor, real: Tensor, spans: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Return how much further from the real film the last scene is than the first, `n` in %.

    Of the mean colour, as in `colour_drift`, and of sharpness: below 0 it blurs.

    Args:
        video, real: `n t h w c`, uint8.
        spans: of each scene, the first frame and the one after the last.
    """
    off, sharp = [], []
    for start, end in (spans[0], spans[-1]):
        made, asked = video[:, start:end], real[:, start:end]
        colours = [reduce(each.float(), "n t h w c -> n c", "mean") for each in (made, asked)]
        off.append(100 * (colours[0] - colours[1]).norm(dim=-1) / colours[1].norm(dim=-1))
        sharp.append(sharpness(made) / sharpness(asked))
    return off[1] - off[0], 100 * (sharp[1] / sharp[0] - 1)


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
