"""Two ways to one result, in turn with a probe: how much faster one is, and how sure that is."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from t2v.bench.stopwatch import Run, seconds

NOISY = 0.15  # a probe that moves further between rounds tells nothing of the rest
DRAWS = 2000


@dataclass(frozen=True)
class Verdict:
    """The median ratio of pairs, its 95 % interval, and how far the probe moved.

    Args:
        ratio: how many times the peer's time is ours; above 1 ours is faster.
        spread: of the probe's times, (90th - 10th percentile) / median.
    """

    ratio: float
    low: float
    high: float
    spread: float

    @property
    def told(self) -> str:
        """The verdict in a word: faster, slower, equal or noisy."""
        if self.spread > NOISY:
            return "noisy"
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "equal"


def verdict(ours: Sequence[float], peer: Sequence[float], probe: Sequence[float]) -> Verdict:
    """Compare times of the same rounds; the interval is a bootstrap over rounds (2,000 draws)."""
    ratios = [b / a for a, b in zip(ours, peer, strict=True)]
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(DRAWS))
    low, high = medians[round(0.025 * DRAWS)], medians[round(0.975 * DRAWS) - 1]
    return Verdict(statistics.median(ratios), low, high, spread(probe))


def spread(times: Sequence[float]) -> float:
    """The distance of the 10th from the 90th percentile, as a share of the median."""
    ordered = sorted(times)
    last = len(ordered) - 1
    low, high = ordered[math.floor(0.1 * last)], ordered[math.ceil(0.9 * last)]
    return (high - low) / statistics.median(ordered)


def rounds(runs: Mapping[str, Run], device: torch.device, count: int) -> dict[str, list[float]]:
    """Seconds of each run in `count` rounds, after one that does not count.

    Every other round goes the other way, so that none always follows the same one.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for number in range(count):
        order = list(runs)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            times[name].append(seconds(runs[name], device))
    return times


def utilisation(
    flop: float, times: Sequence[float], probe_flop: float, probe: Sequence[float]
) -> float:
    """The rate of a run as a share of the probe's in the same round, the median of all rounds."""
    shares = [flop / a / (probe_flop / b) for a, b in zip(times, probe, strict=True)]
    return statistics.median(shares)
