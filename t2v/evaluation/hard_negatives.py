"""Hard negatives for scorers: captions wrong by one phrase, and clips shuffled or reversed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from t2v.world.grammar import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    MOTIONS,
    NUMBERS,
    PREFIXES,
    SHAPES,
    SIZES,
    UNSPUN,
    pick,
)

# motions that time reversal turns into each other, of things and of the camera
OPPOSITE = {"left": "right", "rise": "fall", "grow": "shrink"}
OPPOSITE |= {"pan left": "pan right", "zoom in": "zoom out"}
OPPOSITE |= {end: start for start, end in OPPOSITE.items()}
# kinds of counterfactual captions: `direction` exchanges a motion for its opposite, `motion` and
# `camera` for others; `binding` exchanges the colours of two things
KINDS = (
    *("colour", "shape", "size", "motion", "direction"),
    *("count", "background", "camera", "binding"),
)
# motions by kind, for reports
MOVES = {
    "travel": ("left", "right", "rise", "fall"),
    "growth": ("grow", "shrink"),
    "bounce": ("bounce",),
    "spin": ("spin",),
    "camera": tuple(CAMERAS)[1:],
}
LEAST_CHANGE = 1.0  # grey levels by which a shuffled clip must differ, on average

Phrases = dict[str, tuple[str, ...]]


class Phrase(NamedTuple):
    """A phrase of the world: its kind, its class, and the wordings of each class of its form."""

    kind: str
    name: str
    wordings: Phrases


Found = tuple[re.Match[str], Phrase]


@cache
def _lexicon() -> dict[str, Phrase]:
    def plain(table: dict[str, tuple[str, ...]]) -> Phrases:
        return {
            name: tuple(filter(None, wordings)) for name, wordings in table.items() if any(wordings)
        }

    tables = {
        "colour": [plain(COLOURS)],
        "size": [plain(SIZES)],
        "background": [plain(BACKGROUNDS)],
        "camera": [plain(CAMERAS)],
        "count": [{str(number): wordings for number, wordings in NUMBERS.items()}],
    }
    for kind, table in (("shape", SHAPES), ("motion", MOTIONS)):
        tables[kind] = [
            {name: tuple(both[number] for both in pairs) for name, pairs in table.items()}
            for number in (0, 1)  # one, several
        ]
    return {
        phrase: Phrase(kind, name, wordings)
        for kind, forms in tables.items()
        for wordings in forms
        for name, phrases in wordings.items()
        for phrase in phrases
    }


@cache
def _pattern() -> re.Pattern[str]:
    """The pattern of any phrase, longest first: "slides to the left" before "to the left"."""
    longest_first = sorted(_lexicon(), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")


def phrases(caption: str) -> list[Found]:
    """Return the phrases of the world in a caption, in the order of the text."""
    return [(match, _lexicon()[match[0]]) for match in _pattern().finditer(caption)]


def attributes(caption: str) -> Counter[tuple[str, str]]:
    """Return the attributes that a caption names in the world's words: kind and class, counted."""
    return Counter((phrase.kind, phrase.name) for _, phrase in phrases(caption))


def counterfactual(
    caption: str, generator: torch.Generator, kinds: Collection[str] = KINDS
) -> str | None:
    """Return the caption with one phrase of the world exchanged for another of its kind.

    For `binding`, the colours of two things are exchanged. None where nothing of these kinds can
    be. Phrases that would look the same are kept: a ball that spins looks like one that rests.
    VideoCon, arXiv 2311.10111.
    """
    found = phrases(caption)
    choices = [each for each in exchanges(found) if each[0] in kinds]
    colours = [match for match, phrase in found if phrase.kind == "colour"]
    names = {_lexicon()[each[0]].name for each in colours}
    if "binding" in kinds and len(colours) == len(names) == 2:
        choices.append(("binding", colours[0], {}))
    if not choices:
        return None
    kind, match, others = pick(choices, generator)
    if kind == "binding":
        first, second = colours
        middle = caption[first.end() : second.start()]
        middle = f"{second[0]}{middle}{first[0]}"
        text = caption[: first.start()] + middle + caption[second.end() :]
    else:
        wording = pick(others[pick(list(others), generator)], generator)
        text = caption[: match.start()] + wording + caption[match.end() :]
    return articles(text)


def articles(text: str) -> str:
    """Return a text with `a` or `an` as the next letter asks for."""
    return re.sub(r"\b(a|an) (?=(\w))", _article, text)


def exchanges(
    found: list[Found],
) -> Iterator[tuple[str, re.Match[str], Phrases]]:
    """Yield the phrases that may be exchanged: kind, place, and the classes to choose from."""
    unspun = any(phrase.kind == "shape" and phrase.name in UNSPUN for _, phrase in found)
    for match, (kind, name, wordings) in found:
        opposite = OPPOSITE.get(name)
        if opposite is not None:
            yield "direction", match, {opposite: wordings[opposite]}
        others = {other: wordings[other] for other in wordings if other not in (name, opposite)}
        if unspun and name in ("spin", "still"):
            others = {other: others[other] for other in others if other not in ("spin", "still")}
        if others:
            yield kind, match, others


def _article(match: re.Match[str]) -> str:
    return "an " if match[2] in "aeiou" else "a "


def meaning(caption: str) -> str:
    """Return a key that captions share which mean the same in the world's words.

    A caption that names no background is its own key: it is none of the world's.
    """
    place = [phrase.name for _, phrase in phrases(caption) if phrase.kind == "background"]

    def name(match: re.Match[str]) -> str:
        kind, name, _ = _lexicon()[match[0]]
        return "" if kind == "background" else f"<{name}>"

    prefix = max(PREFIXES, key=lambda prefix: len(prefix) * caption.startswith(prefix))
    text = _pattern().sub(name, caption.removeprefix(prefix))
    words = re.sub(r"\b(an?|and|while)\b|,", " ", text).split()
    return " ".join([*words, *place]) if place else caption


def moves(caption: str) -> set[str]:
    """Return the motions of things and camera in a caption, as classes; without resting."""
    found = {phrase.name for _, phrase in phrases(caption) if phrase.kind in ("motion", "camera")}
    return found - {"still"}


def rests(caption: str) -> bool:
    """Return whether the caption describes a scene in which nothing moves."""
    return not moves(caption) and any(phrase.name == "still" for _, phrase in phrases(caption))


def shuffled(video: Tensor, generator: torch.Generator) -> Tensor:
    """Return clips `n t h w c` with their frames in another order, the same for all."""
    length = video.shape[1]
    order = torch.randperm(length, generator=generator)
    if torch.equal(order, torch.arange(length)):
        order = order.roll(1)
    return video[:, order]


def differs(video: Tensor, other: Tensor) -> Tensor:
    """Return which of two sets of `n t h w c` uint8 clips look different, `n` bool."""
    return (video.float() - other.float()).abs().mean((1, 2, 3, 4)) > LEAST_CHANGE
