"""The three defects of machine captions that VidGen-1M removes: detection, and mending of loops."""

from __future__ import annotations

import re
from collections import Counter

from t2v.curation.text.defect_rules import (
    ABOUT_A_FILM,
    FRAME_BY_FRAME,
    TRANSITION,
    TRANSITION_OF_IT,
)
from t2v.io.words import words

SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")

FILLING = frozenset(("a", "an", "the", "there", "is", "are", "was", "were"))
ALIKE = 0.9  # share of all their words that two sentences have in common if they say the same
LONGEST_LOOP = 60  # words
DISTINCT = 0.6  # the least share of distinct four-word runs in a caption without loops


def sentences(caption: str) -> list[str]:
    """The sentences of a caption, stripped of white space."""
    return [each.strip() for each in SENTENCE.split(caption) if each.strip()]


def describes_transition(caption: str) -> bool:
    """Return whether it describes another scene (VidGen-1M's Scene Transition): a clip has one."""
    after_a_film = False
    for sentence in sentences(caption.lower()):
        if TRANSITION.search(sentence) or (after_a_film and TRANSITION_OF_IT.search(sentence)):
            return True
        after_a_film = bool(ABOUT_A_FILM.search(sentence))
    return False


def narrates_frames(caption: str) -> bool:
    """Return whether it goes frame by frame (VidGen-1M's Frame-Level Generation)."""
    return any(FRAME_BY_FRAME.search(sentence) for sentence in sentences(caption.lower()))


def repeats_itself(caption: str) -> bool:
    """Return whether it repeats a sentence or loops (VidGen-1M's Reduplication)."""
    return unrepeated(caption) != " ".join(caption.split()) or _loops(words(caption))


def unrepeated(caption: str) -> str:
    """The caption with repeated sentences and loops of words reduced to their first occurrence."""
    kept: list[str] = []
    earlier: list[set[str]] = []
    for sentence in sentences(caption):
        all_words = words(sentence.replace("-", " "))
        content = set(all_words) - FILLING
        if len(all_words) < 3 or not any(_overlap(content, each) >= ALIKE for each in earlier):
            kept.append(sentence)
            earlier.append(content)
    return _without_loops(" ".join(kept))


def defects(caption: str) -> tuple[str, ...]:
    """The names of the defects of a caption, in a fixed order.

    The rules are for English and follow VidGen-1M (arXiv 2408.02629), which asks a language model.
    On the captions in `tests/unit/curation`, hard negatives among them, precision is at least .97
    and recall .99. On captions that the rules were not written for, precision is at least .97 and
    recall .95 (.90 for repetition, which misses paraphrases). All of these captions were written by
    hand: expect less with a captioner that has habits of its own.
    """
    found = {
        "scene transition": describes_transition(caption),
        "frame by frame": narrates_frames(caption),
        "repetition": repeats_itself(caption),
    }
    return tuple(name for name, is_there in found.items() if is_there)


def _overlap(one: set[str], other: set[str]) -> float:
    return len(one & other) / max(len(one | other), 1)


def _loops(text: list[str]) -> bool:
    """Return whether runs of four words recur too often, wherever they are."""
    runs = Counter(tuple(text[i : i + 4]) for i in range(len(text) - 3))
    return len(text) >= 20 and len(runs) < DISTINCT * runs.total()


def _without_loops(text: str) -> str:
    """The text with every run of words that repeats itself cut to its first occurrence.

    A single word may occur three times (row, row, row), a run of up to three words twice.
    """
    tokens = text.split()
    plain = ["".join(words(token)) for token in tokens]
    length = 1
    while length <= min(len(plain) // 2, LONGEST_LOOP):
        allowed = 3 if length == 1 else 2 if length <= 3 else 1
        start = 0
        while start + length <= len(plain):
            turns = 1
            run = plain[start : start + length]
            while plain[start + turns * length : start + (turns + 1) * length] == run:
                turns += 1
            if turns > allowed:
                tokens[start + length - 1] = tokens[start + turns * length - 1]  # its full stop
                del plain[start + length : start + turns * length]
                del tokens[start + length : start + turns * length]
            start += 1
        length += 1
    return " ".join(tokens)
