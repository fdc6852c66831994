"""The pairs of a blind vote: which prompts, and which run of each is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from t2v.data.rng import keyed_generator
from t2v.evaluation.verdicts import FIRST
from t2v.evaluation.votes import LEFT, QUESTIONS, RIGHT
from t2v.io.files import digest


@dataclass(frozen=True)
class Pair:
    """Two videos of one prompt, and the runs that they are of.

    Args:
        suite, index: the place of the prompt.
        other: the run that is compared with the first one.
        first_is_left: on the page.
    """

    name: str
    suite: str
    index: int
    prompt: str
    other: str
    first_is_left: bool

    def sides(self) -> tuple[str, str]:
        """The runs whose videos are left and right."""
        return (FIRST, self.other) if self.first_is_left else (self.other, FIRST)


def pairs_of(suites: dict[str, list[str]], sides: list[str], seed: int, most: int) -> list[Pair]:
    """Return the pairs of a ballot in a random order; half of each run's have the first one left.

    Args:
        suites: the prompts of each suite.
        sides: the runs' names, the first one among them.
        seed: of the order, the choice and the sides.
        most: prompts of a suite.
    """
    found = []
    for suite, prompts in suites.items():
        for other in sides:
            if other == FIRST:
                continue
            generator = keyed_generator(seed, suite, other, "votes")
            chosen = torch.randperm(len(prompts), generator=generator)[:most].tolist()
            left = torch.randperm(len(chosen), generator=generator) % 2 == 0
            found += [
                Pair(f"{suite} {index} {other}", suite, index, prompts[index], other, bool(first))
                for index, first in zip(chosen, left, strict=True)
            ]
    order = torch.randperm(len(found), generator=keyed_generator(seed, "votes"))
    return [found[index] for index in order.tolist()]


def ballot_of(pairs: list[Pair], keys: list[str], runs: dict[str, str]) -> dict[str, Any]:
    """Return `ballot.json`: which video of the page is of which run; the page itself does not say.

    Args:
        keys: the keys of all videos, so that other videos make another ballot.
        runs: the folder of each run.
    """
    rows = [
        {"pair": pair.name, "suite": pair.suite, "prompt": pair.prompt}
        | dict(zip((LEFT, RIGHT), pair.sides(), strict=True))
        for pair in pairs
    ]
    return {"ballot": digest(rows, keys), "runs": runs, "questions": QUESTIONS, "pairs": rows}
