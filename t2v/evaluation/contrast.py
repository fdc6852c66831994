"""Captions that are wrong by one word, and clips that run wrong: what a scorer must tell apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

from t2v.world.grammar import BACKGROUNDS, CAMERAS, COLOURS, MOTIONS, SHAPES, SIZES, pick

OPPOSITE = {"left": "right", "right": "left", "rise": "fall", "fall": "rise"}
OPPOSITE |= {"grow": "shrink", "shrink": "grow"}
LEAST_CHANGE = 1.0  # grey levels by which a shuffled clip must differ

Phrases = dict[str, tuple[str, ...]]


@cache
def _kinds() -> dict[str, list[tuple[str, Phrases]]]:
    """Of each attribute, by grammatical form, its classes and how they are said."""

    def form(table: dict[str, tuple[tuple[str, str], ...]], number: int) -> Phrases:
        return {name: tuple(both[number] for both in said) for name, said in table.items()}

    def plain(table: dict[str, tuple[str, ...]]) -> Phrases:
        return {name: tuple(filter(None, said)) for name, said in table.items()}

    return {
        "colour": [("", plain(COLOURS))],
        "shape": [("one", form(SHAPES, 0)), ("several", form(SHAPES, 1))],
        "size": [("", plain(SIZES))],
        "motion": [("one", form(MOTIONS, 0)), ("several", form(MOTIONS, 1))],
        "background": [("", plain(BACKGROUNDS))],
        "camera": [("", plain(CAMERAS))],
    }


def counterfactual(
    caption: str, generator: torch.Generator, kinds: Iterable[str] | None = None
) -> str | None:
    """The caption with one phrase of the world exchanged for another of its kind (VideoCon).

    None where it holds no such phrase. A motion with an opposite becomes that.

    Args:
        kinds: of colour, shape, size, motion, background, camera; None: any.
    """
    found = []
    for kind in kinds or _kinds():
        for _, phrases in _kinds()[kind]:
            for name, said in phrases.items():
                for phrase in said:
                    for match in re.finditer(rf"\b{re.escape(phrase)}\b", caption):
                        found.append((match.span(), name, phrases))
    # "to the left" is no phrase inside "slides to the left"
    outer = [
        each
        for each in found
        if not any(
            other[0] != each[0] and other[0][0] <= each[0][0] and each[0][1] <= other[0][1]
            for other in found
        )
    ]
    if not outer:
        return None
    (start, end), name, phrases = pick(outer, generator)
    others = [other for other in phrases if other != name and phrases[other]]
    other = OPPOSITE.get(name, "")
    said = phrases[other if other in others else pick(others, generator)]
    text = caption[:start] + pick(said, generator) + caption[end:]
    return re.sub(r"\b(a|an) (?=(\w))", _article, text)


def _article(match: re.Match[str]) -> str:
    return "an " if match[2] in "aeiou" else "a "


def goes_somewhere(caption: str) -> bool:
    """Whether the caption tells of a motion that runs the other way when time does."""
    forms = _kinds()["motion"]
    return any(
        re.search(rf"\b{re.escape(phrase)}\b", caption)
        for _, phrases in forms
        for name in OPPOSITE
        for phrase in phrases[name]
    )


def shuffled(video: Tensor, generator: torch.Generator) -> Tensor:
    """The same frames of `n t h w c` in another order, one for all."""
    length = video.shape[1]
    order = torch.randperm(length, generator=generator)
    if torch.equal(order, torch.arange(length)):
        order = order.roll(1)
    return video[:, order]


def differs(video: Tensor, other: Tensor) -> Tensor:
    """Whether two sets of `n t h w c` uint8 clips look different, `n` bool."""
    return (video.float() - other.float()).abs().mean((1, 2, 3, 4)) > LEAST_CHANGE
