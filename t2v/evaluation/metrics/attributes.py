"""Attributes of the world's scenes that videos show, read by the oracle."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2v.data.cache import weights_digest
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.evaluation.networks import Networks
from t2v.evaluation.types import Measurements, NotRun, PerVideo, Videos
from t2v.world.grammar import DIRECTIONS
from t2v.world.labels import HEADS, labels
from t2v.world.oracle import WorldOracle

Truth = dict[str, Any]
Answer = dict[str, str]


@dataclass(frozen=True)
class Attribute:
    """A column of the table: the scenes it is asked of, and the heads that must all be right."""

    name: str
    asked: Callable[[Truth], bool]
    heads: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The frames `start` to `end` (exclusive) of a video, and the scene that they should show."""

    video: int
    start: int
    end: int
    truth: Truth


def _single(truth: Truth) -> bool:
    return truth["count"] == 1


def _single_going(truth: Truth) -> bool:
    return _single(truth) and truth["things"][0]["motion"] in DIRECTIONS


def _pair(truth: Truth) -> bool:
    return truth["count"] == 2 and truth["things"][0] != truth["things"][1]


def _all(truth: Truth) -> bool:
    return True


ATTRIBUTES = (
    Attribute("background", _all, ("background",)),
    Attribute("camera", _all, ("camera",)),
    Attribute("count", _all, ("count",)),
    Attribute("colour", _single, ("colour1",)),
    Attribute("shape", _single, ("shape1",)),
    Attribute("size", _single, ("size1",)),
    Attribute("motion", _single, ("motion1",)),
    Attribute("direction", _single_going, ("motion1",)),
    Attribute("two colours", _pair, ("colour1", "colour2")),
    Attribute("two shapes", _pair, ("shape1", "shape2")),
)


def load(networks: Networks) -> WorldOracle | None:
    """Return the oracle that reads the attributes; None: none is named."""
    return networks.oracle


def measure(videos: Videos, oracle: WorldOracle | None) -> Measurements:
    """Return whether the oracle reads each attribute right, and `all`, the share of those asked.

    Of a clip that was given in part, it reads the frames in which something had to be made.
    """
    if oracle is None:
        return {"all": NotRun("no oracle is named: oracle=FOLDER")}
    if videos.truths is None:
        return {"all": NotRun("the scenes of these prompts are not known")}
    watched = videos.video
    if videos.given is not None:
        watched = watched[:, videos.given.window]
    parts = scene_parts(videos.truths, watched.shape[1])
    read = answers_of_parts(oracle, watched, parts)
    return compared(parts, read, oracle_name(oracle), len(videos))


def guess(videos: Videos, oracle: WorldOracle | None) -> Measurements | None:
    """Return the same for one constant answer, the best there is; None where `measure` is not run.

    It is what an oracle scores that sees nothing.
    """
    if oracle is None or videos.truths is None:
        return None
    parts = scene_parts(videos.truths, videos.video.shape[1])
    constant = [most_common([part.truth for part in parts])] * len(parts)
    return compared(parts, constant, "one answer for all", len(videos))


def scene_parts(truths: Sequence[Truth], num_frames: int) -> list[Part]:
    """Return the frames of each scene of videos, by their truths; most videos are one scene.

    Raises:
        UserError: a scene begins behind the last frame.
    """
    parts = []
    for number, truth in enumerate(truths):
        for scene in truth.get("scenes", [{"start": 0, "end": None, "truth": truth}]):
            start, end = scene["start"], min(scene["end"] or num_frames, num_frames)
            if start >= end:
                raise UserError(
                    f"num_frames={num_frames}: a scene of prompt {number + 1} begins with frame "
                    f"{start}. Ask for at least {start + 8} frames."
                )
            parts.append(Part(number, start, end, scene["truth"]))
    return parts


def compared(
    parts: Sequence[Part], answers: Sequence[Answer], method: str, count: int
) -> Measurements:
    """Return the measurements of `count` videos: 1 right in every scene, 0 not, nan not asked."""
    of_parts = right([part.truth for part in parts], answers)
    owners = torch.tensor([part.video for part in parts])
    values = {name: _in_all(value, owners, count) for name, value in of_parts.items()}
    asked = torch.stack(list(values.values())).nanmean(0)
    found: Measurements = {
        name: PerVideo(
            value, "higher", f"is it the one the prompt asks for? {method}", is_share=True
        )
        for name, value in values.items()
    }
    share = f"share of the asked attributes that are right, {method}"
    return {"all": PerVideo(asked, "higher", share, is_part=True)} | found


def _in_all(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """The lowest value of each of `count` owners, nan where all of its values are."""
    low = torch.full((count,), math.inf)
    low = low.scatter_reduce(0, owners, values.nan_to_num(math.inf), "amin")
    return low.masked_fill(low.isinf(), math.nan)


def right(truths: Sequence[Truth], answers: Sequence[Answer]) -> dict[str, Tensor]:
    """Return whether each attribute was read right, `n` of 1, 0 and nan where it is not asked."""
    classes = labels(list(truths))
    found = {}
    for attribute in ATTRIBUTES:
        values = [
            float(
                all(
                    answers[i][head] == HEADS[head][0][classes[head][i]] for head in attribute.heads
                )
            )
            if attribute.asked(truth)
            else math.nan
            for i, truth in enumerate(truths)
        ]
        found[attribute.name] = torch.tensor(values)
    return found


def most_common(truths: Sequence[Truth]) -> Answer:
    """Return the class of each head that most scenes have."""
    classes = labels(list(truths))
    answer = {}
    for name, (names, _) in HEADS.items():
        known = Counter(index for index in classes[name].tolist() if index >= 0)
        answer[name] = names[known.most_common(1)[0][0]] if known else names[0]
    return answer


def answers_of_parts(oracle: WorldOracle, videos: Tensor, parts: Sequence[Part]) -> list[Answer]:
    """Return what the oracle reads in some frames of `n t h w c` uint8 videos."""
    spans: dict[tuple[int, int], list[int]] = {}
    for index, part in enumerate(parts):
        spans.setdefault((part.start, part.end), []).append(index)
    found: dict[int, Answer] = {}
    for (start, end), indices in spans.items():
        chosen = videos[[parts[index].video for index in indices], start:end]
        found |= zip(indices, answers(oracle, chosen), strict=True)
    return [found[index] for index in range(len(parts))]


@torch.no_grad()
def answers(oracle: WorldOracle, videos: Tensor) -> list[Answer]:
    """Return what the oracle reads in `n t h w c` uint8 videos."""
    chunks = videos.split(32)
    return [each for chunk in chunks for each in oracle.classify(pixels(chunk).to(oracle.device))]


def oracle_name(oracle: WorldOracle) -> str:
    """Return the name that figures of an oracle carry: a hash of its weights."""
    return f"world oracle {weights_digest(oracle)[:8]}"
