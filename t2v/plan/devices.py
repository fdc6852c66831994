"""Cards that stand for a device that is not here, of which only the memory is told."""

from __future__ import annotations

from dataclasses import dataclass

from t2v.plan.trace import Rates

REACHED = 0.8  # of a card's peak rate that large products reach: 790 of 989 TFLOP/s on an H200
LAUNCH = 5e-6  # seconds in which a kernel is launched, about


@dataclass(frozen=True)
class Card:
    """A card: GiB of memory, dense TFLOP/s in bf16 with sums in fp32, GB/s of its memory."""

    name: str
    memory: float
    tflops: float
    bandwidth: float


# NVIDIA's white papers of Ampere, Ada, Hopper and Blackwell, and its data sheets
CARDS = (
    Card("RTX 4060", 8, 30.2, 272),
    Card("RTX 3060", 12, 25.5, 360),
    Card("RTX 4060 Ti", 16, 44.1, 288),
    Card("RTX 4090", 24, 165, 1008),
    Card("RTX 5090", 32, 209, 1792),
    Card("RTX A6000", 48, 155, 768),
    Card("H100", 80, 989, 3350),
    Card("H200", 141, 989, 4800),
)


def card_of(memory: float) -> Card:
    """The largest of `CARDS` that has at most `memory` GiB, or the smallest of all."""
    return max((each for each in CARDS if each.memory <= memory), key=_size, default=CARDS[0])


def _size(card: Card) -> float:
    return card.memory


def rates_of(tflops: float, bandwidth: float) -> Rates:
    """The rates of a device by what its products reach, TFLOP/s, and GB/s of its memory."""
    rate = 1e12 * tflops
    return Rates(rate, rate, rate, 1e9 * bandwidth, LAUNCH)
