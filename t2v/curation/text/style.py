"""The distance of a caption from the way users write, by statistics of their prompts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from t2v.io.prompts import read_prompts
from t2v.io.words import STOP, words

LEAST = 20  # different prompts that a style is told from
FAR = 5.0  # standard deviations at which a trait is as far off as it can be
MARK = re.compile(r"[^\w\s'’-]")  # noqa: RUF001  punctuation between words
# traits, each with the least deviation that counts: prompts may agree in one to the letter
TRAITS = {
    "length": 0.2,  # log of the number of words
    "clause": 0.2,  # log of the words between marks
    "letters": 0.3,  # of a word
    "marks": 0.03,  # of punctuation, a word
    "function": 0.05,  # share of words that carry no content
    "participles": 0.03,  # share of words in -ing
    "capital": 0.3,  # whether it begins with one
    "stop": 0.3,  # whether it ends with one
    "vocabulary": 0.3,  # mean log of how frequent its words are among the prompts
    "phrases": 0.1,  # share of its pairs of words that other prompts hold
}


@dataclass(frozen=True)
class Style:
    """The traits of prompts: means and deviations, and how often they say what.

    `vocabulary` counts words, `pairs` pairs of words; the ends of a text count as words there.
    """

    mean: np.ndarray  # of each trait
    deviation: np.ndarray
    vocabulary: Counter[str]
    pairs: Counter[tuple[str, str]]

    @staticmethod
    def of(prompts: Sequence[str]) -> Style:
        """The style of prompts, each measured against the others."""
        vocabulary = Counter(word for each in prompts for word in words(each))
        pairs = Counter(pair for each in prompts for pair in _pairs(each))
        rows = []
        for text in prompts:
            own, own_pairs = Counter(words(text)), Counter(_pairs(text))
            rows.append(_traits(text, vocabulary - own, pairs - own_pairs))
        found = np.array(rows)
        least = np.array(list(TRAITS.values()))
        return Style(found.mean(0), np.maximum(found.std(0), least), vocabulary, pairs)

    def distance(self, text: str) -> float:
        """Return the distance of a text from the style, 0 to `FAR`; prompts themselves have .8.

        Burrows's Delta (2002, Literary and Linguistic Computing 17:267), the mean over traits of
        how many standard deviations off they are; here those of `TRAITS`, where his are the rates
        of frequent words, which short texts have too few of.
        """
        off = np.abs(np.array(_traits(text, self.vocabulary, self.pairs)) - self.mean)
        return float(np.minimum(off / self.deviation, FAR).mean())


def style_of(file: str) -> Style:
    """The style of the prompts in a file, one a line.

    Raises:
        UserError: it cannot be read, or holds fewer than `LEAST` different prompts.
    """
    path = Path(file)
    return _style_of(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=1)
def _style_of(file: Path, changed: int) -> Style:
    return Style.of(read_prompts(file, "caption.style", LEAST))


def _pairs(text: str) -> list[tuple[str, str]]:
    return list(pairwise(["", *words(text), ""]))


def _traits(
    text: str, vocabulary: Counter[str], pairs: Counter[tuple[str, str]]
) -> tuple[float, ...]:
    """The values of `TRAITS`, against how often prompts hold words and pairs of words."""
    said, marks = words(text), MARK.findall(text)
    count = max(len(said), 1)
    clauses = [len(words(each)) for each in MARK.split(text)]
    clauses = [each for each in clauses if each] or [0]
    total = vocabulary.total() + len(vocabulary) + 1
    frequencies = [math.log((vocabulary[word] + 1) / total) for word in said]
    own = _pairs(text)
    return (
        math.log(len(said) + 1),
        math.log(sum(clauses) / len(clauses) + 1),
        sum(map(len, said)) / count,
        len(marks) / count,
        sum(word in STOP for word in said) / count,
        sum(word.endswith("ing") for word in said) / count,
        float(text[:1].isupper()),
        float(text.rstrip().endswith((".", "!", "?"))),
        sum(frequencies) / count,
        sum(pair in pairs for pair in own) / len(own),
    )
