"""Captions that are wrong by one word, and clips that run wrong: what a scorer must tell apart."""

from __future__ import annotations

import re
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

# what time turns into each other, of things and of the camera
OPPOSITE = {"left": "right", "rise": "fall", "grow": "shrink"}
OPPOSITE |= {"pan left": "pan right", "zoom in": "zoom out"}
OPPOSITE |= {end: start for start, end in OPPOSITE.items()}
# kinds of counterfactual captions: `direction` is to the opposite, `motion` and `camera` to others;
# for `binding` the colours of two things change places
KINDS = (
    *("colour", "shape", "size", "motion", "direction"),
    *("count", "background", "camera", "binding"),
)
# what moves, for a report by kind
MOVES = {
    "travel": ("left", "right", "rise", "fall"),
    "growth": ("grow", "shrink"),
    "bounce": ("bounce",),
    "spin": ("spin",),
    "camera": tuple(CAMERAS)[1:],
}
LEAST_CHANGE = 1.0  # grey levels by which a shuffled clip must differ

Phrases = dict[str, tuple[str, ...]]


class Phrase(NamedTuple):
    """A phrase of the world: its kind, its class, and how each class of its form is said."""

    kind: str
    name: str
    said: Phrases


@cache
def _lexicon() -> dict[str, Phrase]:
    def plain(table: dict[str, tuple[str, ...]]) -> Phrases:
        return {name: tuple(filter(None, said)) for name, said in table.items() if any(said)}

    tables = {
        "colour": [plain(COLOURS)],
        "size": [plain(SIZES)],
        "background": [plain(BACKGROUNDS)],
        "camera": [plain(CAMERAS)],
        "count": [{str(number): said for number, said in NUMBERS.items()}],
    }
    for kind, table in (("shape", SHAPES), ("motion", MOTIONS)):
        tables[kind] = [
            {name: tuple(both[number] for both in said) for name, said in table.items()}
            for number in (0, 1)  # one, several
        ]
    return {
        phrase: Phrase(kind, name, said)
        for kind, forms in tables.items()
        for said in forms
        for name, phrases in said.items()
        for phrase in phrases
    }


@cache
def _pattern() -> re.Pattern[str]:
    """Any phrase; the longest, for "to the left" is none inside "slides to the left"."""
    longest_first = sorted(_lexicon(), key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")


def _found(caption: str) -> list[tuple[re.Match[str], Phrase]]:
    return [(match, _lexicon()[match[0]]) for match in _pattern().finditer(caption)]


def counterfactual(
    caption: str, generator: torch.Generator, kinds: Collection[str] = KINDS
) -> str | None:
    """The caption with one phrase of the world exchanged for another of its kind (VideoCon,
    arXiv 2311.10111); for `binding`, with the colours of two things exchanged.

    None where nothing of these kinds can be exchanged. What would look the same is not: a ball that
    spins and one that rests.
    """
    found = _found(caption)
    choices = [each for each in _exchanges(found) if each[0] in kinds]
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
        said = pick(others[pick(list(others), generator)], generator)
        text = caption[: match.start()] + said + caption[match.end() :]
    return re.sub(r"\b(a|an) (?=(\w))", _article, text)


def _exchanges(
    found: list[tuple[re.Match[str], Phrase]],
) -> Iterator[tuple[str, re.Match[str], Phrases]]:
    """What may be exchanged, as kind, place and the classes to choose from."""
    unspun = any(phrase.kind == "shape" and phrase.name in UNSPUN for _, phrase in found)
    for match, (kind, name, said) in found:
        opposite = OPPOSITE.get(name)
        if opposite is not None:
            yield "direction", match, {opposite: said[opposite]}
        others = {other: said[other] for other in said if other not in (name, opposite)}
        if unspun and name in ("spin", "still"):
            others = {other: others[other] for other in others if other not in ("spin", "still")}
        if others:
            yield kind, match, others


def _article(match: re.Match[str]) -> str:
    return "an " if match[2] in "aeiou" else "a "


def meaning(caption: str) -> str:
    """Equal for captions that say the same in other words of the world; else the caption itself."""
    place = [phrase.name for _, phrase in _found(caption) if phrase.kind == "background"]

    def name(match: re.Match[str]) -> str:
        kind, name, _ = _lexicon()[match[0]]
        return "" if kind == "background" else f"<{name}>"

    prefix = max(PREFIXES, key=lambda prefix: len(prefix) * caption.startswith(prefix))
    text = _pattern().sub(name, caption.removeprefix(prefix))
    words = re.sub(r"\b(an?|and|while)\b|,", " ", text).split()
    return " ".join([*words, *place]) if place else caption


def moves(caption: str) -> set[str]:
    """What the caption says that things and camera do, as classes; without resting."""
    told = {phrase.name for _, phrase in _found(caption) if phrase.kind in ("motion", "camera")}
    return told - {"still"}


def rests(caption: str) -> bool:
    """Whether the caption tells of a scene in which nothing moves."""
    return not moves(caption) and any(phrase.name == "still" for _, phrase in _found(caption))


def goes_somewhere(caption: str) -> bool:
    """Whether the caption is false of the clip run backwards."""
    return bool(moves(caption) & set(OPPOSITE))


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
