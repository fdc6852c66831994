"""The signs of a prompt, read: weights, blends, conjunctions, and scenes by time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from t2v.errors import UserError, shortened
from t2v.io.prompt_words import clean_prompt

# a sign that stands for itself, or `\AND`
ESCAPED = re.compile(r"\\([\\()\[\]{}|@:]|AND\b)")
HIDDEN = 0xE000  # escaped signs while a prompt is read, as private characters from here on
NUMBER = r"\d+(?:\.\d*)?|\.\d+"
SCENE = re.compile(rf"\[\s*({NUMBER})\s*s?\s*-\s*({NUMBER})\s*s\s*\]")
AND = re.compile(r"(?:^|(?<=\s))AND(?=\s|$)")
BLEND = re.compile(rf"(?:^|(?<=\s))@({NUMBER})(?=\s|$)")
WEIGHT = re.compile(rf"[+-]?(?:{NUMBER})")
MOST = 5.0  # weight: beyond it embeddings are nothing that a model has seen


@dataclass(frozen=True)
class Span:
    """Characters of a clause, the end exclusive, and their weight."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class Clause:
    """Plain text, and the weights of some of it."""

    text: str
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Blend:
    """A clause, and others that it is mixed with in turn, each with its share in [0, 1]."""

    first: Clause
    others: tuple[tuple[float, Clause], ...] = ()


@dataclass(frozen=True)
class Scene:
    """A part of a film: blends whose tokens stand side by side.

    `start` and `end` are seconds; a prompt without times is one scene, from 0 on.
    """

    blends: tuple[Blend, ...]
    start: float = 0.0
    end: float = math.inf

    @property
    def clauses(self) -> list[Clause]:
        """Every clause, in the order of the text."""
        return [
            clause
            for blend in self.blends
            for clause in (blend.first, *(other for _, other in blend.others))
        ]


def plain(prompt: str) -> tuple[Scene, ...]:
    """A prompt whose every sign stands for itself."""
    return (Scene((Blend(Clause(prompt)),)),)


def parse(prompt: str) -> tuple[Scene, ...]:
    """The scenes of a prompt: `[0-2s] A [2-4s] B`, each `A AND B`, each `A @0.5 B`, each with
    `(words:1.3)`.

    `@` binds tighter than AND, and from the left. Parentheses without a number stay text.

    Raises:
        UserError: an empty part, a number out of range, or times that do not follow each other.
    """
    text = ESCAPED.sub(_hide, clean_prompt(prompt))
    marks = list(SCENE.finditer(text))
    if not marks:
        return (Scene(_blends(text, prompt)),)
    if before := text[: marks[0].start()].strip():
        raise UserError(
            f"prompt {_shown(prompt)}: {_plain(before)[:40]!r} stands before the first time. Say "
            "it in each scene: [0-2s] a red ball rests [2-4s] a red ball bounces."
        )
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    scenes = [
        Scene(_blends(text[mark.end() : end], prompt), float(mark[1]), float(mark[2]))
        for mark, end in zip(marks, ends, strict=True)
    ]
    _check_times(scenes, prompt)
    return tuple(scenes)


def escaped(text: str) -> str:
    """A text in which every sign stands for itself when it is parsed."""
    return re.sub(r"[\\()\[\]{}|@:]|\bAND\b", r"\\\g<0>", text)


def has_signs(scenes: Sequence[Scene]) -> bool:
    """True where a prompt is more than one plain text."""
    first = scenes[0].blends[0]
    is_one = len(scenes) == len(scenes[0].blends) == 1 and not first.others
    return not is_one or bool(first.first.spans) or math.isfinite(scenes[0].end)


def _check_times(scenes: list[Scene], prompt: str) -> None:
    expected = 0.0
    for scene in scenes:
        if scene.start != expected or scene.end <= scene.start:
            raise UserError(
                f"prompt {_shown(prompt)}: [{scene.start:g}-{scene.end:g}s] should begin at "
                f"{expected:g} s, where the scene before it ends, and end later."
            )
        expected = scene.end


def _blends(text: str, prompt: str) -> tuple[Blend, ...]:
    return tuple(_blend(part, prompt) for part in AND.split(text))


def _blend(text: str, prompt: str) -> Blend:
    first, *rest = BLEND.split(text)
    others = []
    for share, clause in zip(rest[::2], rest[1::2], strict=True):
        if not 0 <= float(share) <= 1:
            raise UserError(
                f"prompt {_shown(prompt)}: @{share} is the share of what follows it, from 0 to 1. "
                r"A plain @ is \@."
            )
        others.append((float(share), _clause(clause, prompt)))
    return Blend(_clause(first, prompt), tuple(others))


def _clause(text: str, prompt: str) -> Clause:
    """The text without the signs of its weights, single blanks between words, and the weights."""
    characters, weights = "", list[float]()
    for character, weight in _weighed(text.strip()):
        if character.isspace():
            if not characters or characters.endswith(" "):
                continue
            character = " "
        characters += character
        weights.append(weight)
    length = len(characters.rstrip())
    if not length:
        raise UserError(
            f"prompt {_shown(prompt)}: a part of it is empty. Say what each part of A AND B, "
            r"A @0.5 B and [0-2s] A shows, or write plain signs as \@ and \AND."
        )
    spans, start = list[Span](), 0
    for weight, group in groupby(weights[:length]):
        end = start + len(list(group))
        if weight != 1:
            spans.append(Span(start, end, weight))
        start = end
    return Clause(_plain(characters[:length]), tuple(spans))


def _weighed(text: str) -> Iterator[tuple[str, float]]:
    """Yield each character that is no sign, and its weight; those of parentheses in each other
    multiply."""
    opened: dict[int, float] = {}  # where a weighted parenthesis opens: its weight
    closed: dict[int, int] = {}  # where its colon stands: its end
    waiting = list[int]()
    for place, sign in enumerate(text):
        if sign == "(":
            waiting.append(place)
        elif sign == ")" and waiting:
            start = waiting.pop()
            colon = text.rfind(":", start, place)
            number = WEIGHT.fullmatch(text[colon + 1 : place].strip()) if colon > 0 else None
            if number is not None and colon not in closed:
                opened[start], closed[colon] = _weight(number[0], text[start + 1 : colon]), place
    products, place = [1.0], 0
    while place < len(text):
        if place in opened:
            products.append(products[-1] * opened[place])
        elif place in closed:
            products.pop()
            place = closed[place]
        else:
            yield text[place], products[-1]
        place += 1


def _weight(number: str, words: str) -> float:
    weight = float(number)
    if not 0 <= weight <= MOST:
        raise UserError(
            f"prompt: the weight {number} of {_plain(words)[:40]!r}. Give one from 0 to {MOST:g}, "
            r"or write plain parentheses as \( and \)."
        )
    return weight


def _hide(found: re.Match[str]) -> str:
    return "".join(chr(HIDDEN + ord(sign)) for sign in found[1])


def _plain(text: str) -> str:
    return "".join(chr(ord(c) - HIDDEN) if HIDDEN < ord(c) < HIDDEN + 128 else c for c in text)


def _shown(prompt: str) -> str:
    return repr(shortened(prompt, 60))
