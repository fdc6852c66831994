"""How well videos show the scenes of the world they are asked for, read by the judge."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2v.data.cache import weights_digest
from t2v.data.world_shards import pixels
from t2v.evaluation.intervals import wilson as wilson
from t2v.evaluation.types import Column, Findings, Nets, NotRun, Videos
from t2v.nets.features import VideoNet
from t2v.world.grammar import DIRECTIONS
from t2v.world.labels import HEADS, labels
from t2v.world.oracle import WorldOracle

Truth = dict[str, Any]
Answer = dict[str, str]


@dataclass(frozen=True)
class Attribute:
    """One column of the table: which scenes it is asked of, and which heads must all be right."""

    name: str
    asked: Callable[[Truth], bool]
    heads: tuple[str, ...]


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


def attributes(videos: Videos, nets: Nets) -> Findings:
    """Whether the judge sees each attribute of the truth, and `all`, the share of those asked."""
    if nets.oracle is None or videos.truths is None:
        missing = "no judge is named: oracle=FOLDER" if nets.oracle is None else "no scenes known"
        return {"all": NotRun(missing)}
    truths, answers = list(videos.truths), judge(nets.oracle, videos.video)
    return columns(truths, answers, f"world oracle {weights_digest(nets.oracle)[:8]}")


def columns(truths: list[Truth], answers: list[Answer], method: str) -> Findings:
    """The columns of `attributes` for some answers: 1 right, 0 wrong, nan not asked."""
    values = right(truths, answers)
    everything = torch.stack(list(values.values())).nanmean(0)
    means = f"share of the asked attributes that are right, {method}"
    found: Findings = {"all": Column(everything, "higher", means, is_part=True)}
    told = f"is it the one the prompt asks for? {method}"
    return found | {
        name: Column(value, "higher", told, is_share=True) for name, value in values.items()
    }


def oracle_features(oracle: WorldOracle) -> VideoNet:
    """Return the oracle as a network of videos: the logits of all its heads, side by side."""

    def compute(video: Tensor) -> Tensor:
        return torch.cat(list(oracle(pixels(video).to(oracle.device)).values()), dim=1)

    return VideoNet(f"world oracle {weights_digest(oracle)[:8]}", compute)


def right(truths: list[Truth], answers: list[Answer]) -> dict[str, Tensor]:
    """Whether each attribute was read right, `n` of 1, 0 and nan where it is not asked."""
    classes = labels(truths)
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


def most_common(truths: list[Truth]) -> list[Answer]:
    """One constant answer, the best there is: what a judge scores who sees nothing."""
    classes = labels(truths)
    answer = {}
    for name, (names, _) in HEADS.items():
        known = Counter(index for index in classes[name].tolist() if index >= 0)
        answer[name] = names[known.most_common(1)[0][0]] if known else names[0]
    return [answer] * len(truths)


@torch.no_grad()
def judge(oracle: WorldOracle, videos: Tensor) -> list[Answer]:
    """What the judge sees in `n t h w c` uint8 videos."""
    chunks = videos.split(32)
    return [seen for chunk in chunks for seen in oracle.judge(pixels(chunk).to(oracle.device))]
