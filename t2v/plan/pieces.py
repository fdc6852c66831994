"""One run of a network in figures: traced, or by a formula."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

from torch import nn

from t2v.plan.trace import FINE, NO_ARITHMETIC, Rates, Roofline

# tensors as wide as a token that are alive at once; the traced transformers keep 11 to 18
ALIVE = 16
NONE = (0.0, 0.0)


@dataclass(frozen=True)
class Piece:
    """FLOP, seconds, bytes beside the weights, and operations of one run of a network."""

    flop: float
    seconds: float
    rise: float
    operations: float = 0
    roofline: Roofline = field(default_factory=dict)

    def plus(self, times: float, other: Piece) -> Piece:
        """This run and `times` others; their memory is not added up."""
        both = {
            each: tuple(
                mine + times * more
                for mine, more in zip(
                    self.roofline.get(each, NONE), other.roofline.get(each, NONE), strict=True
                )
            )
            for each in {**self.roofline, **other.roofline}
        }
        return Piece(
            self.flop + times * other.flop,
            self.seconds + times * other.seconds,
            max(self.rise, other.rise),
            self.operations + times * other.operations,
            cast(Roofline, both),
        )

    def onward(self, more: Piece, steps: float) -> Piece:
        """This run, and `steps` times what another has more than it."""
        return self.plus(steps, more.plus(-1, self))


def formula(network: nn.Module, tokens: int, rates: Rates, itemsize: int) -> Piece:
    """A pass by arithmetic: each weight of a linear layer is used once a token, and all tokens of
    a block meet (4 n^2 d FLOP)."""
    linear = [each for each in network.modules() if isinstance(each, nn.Linear)]
    numbers = sum(each.weight.numel() for each in linear)
    widths = Counter(each.in_features for each in linear)
    width = widths.most_common(1)[0][0] if widths else 1
    blocks = sum(len(each) for each in network.modules() if isinstance(each, nn.ModuleList))
    flop = 2 * numbers * tokens + 4 * tokens**2 * width * blocks
    seconds = max(flop / rates.matmul, numbers * itemsize / rates.memory)
    moved = numbers * itemsize
    roofline = {round(FINE * math.log2(flop / moved)) if moved else NO_ARITHMETIC: (flop, moved)}
    return Piece(flop, seconds, ALIVE * tokens * width * itemsize, len(linear), roofline)
