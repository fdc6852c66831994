"""The words of a text: plain, without endings, and those that carry its meaning."""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")  # noqa: RUF001


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return WORD.findall(text.lower())


STOP = frozenset(
    words(
        "a an the this that these those and or but of in on at to from with by for as into onto "
        "over under near is are was were be been being has have had it its he she they his her "
        "their there here while which who whose then also very some two one video clip scene shot "
        "footage shows showing seen"
    )
)


def stem(word: str) -> str:
    """Return a lower-case word without its ending, roughly: running, runs and run are one."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            stem = word.removesuffix(ending)
            return stem[:-1] if stem[-1] == stem[-2] else stem  # running, run
    return word.removesuffix("e") if len(word) > 4 else word


def content_words(text: str) -> frozenset[str]:
    """Return the words of a text that carry its meaning, without their endings."""
    return frozenset(stem(word) for word in words(text) if word not in STOP)


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the F1 of two sets of words, in [0, 1]; 0 where both are empty."""
    return 2 * len(one & other) / max(len(one) + len(other), 1)
