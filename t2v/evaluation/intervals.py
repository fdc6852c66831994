"""Confidence intervals of means and shares, and paired tests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from t2v.curation.shares import wilson

# scipy.stats would buy little: its Wilson interval takes whole counts alone, where proportions have
# fractions, and a z of 1.95996; its bootstrap resamples in an order of its own, so that published
# figures would change; it has no Holm. Tests hold these functions to scipy's.
RESAMPLES = 2_000
FLIPS = 10_000
NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A figure, its 95 % interval and the number of videos behind it."""

    value: float
    low: float
    high: float
    n: int


def summary(
    values: Tensor, generator: torch.Generator, is_share: bool = False, is_part: bool = False
) -> Interval:
    """Return the mean of the values but nan, with its interval: Wilson's of a share, else BCa.

    Proportions that are all equal leave nothing to resample: 16 times 1 does not prove 1. They get
    Wilson's interval, for of all values in [0, 1], shares spread the most.
    """
    known = values[~values.isnan()].double()
    n = len(known)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = known.mean().item()
    if is_share or (is_part and known.min() == known.max()):
        return Interval(mean, *wilson(known.sum().item(), n), n)
    return Interval(mean, *bootstrap(known, generator), n)


def bootstrap(values: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """Return the 95 % interval of a mean, bias-corrected and accelerated (Efron 1987, JASA 82:171).

    Plain percentiles cover 92 % at 60 videos. A single video has no interval: nan.
    """
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    if values.min() == values.max():
        return values[0].item(), values[0].item()
    chosen = torch.randint(n, (RESAMPLES, n), generator=generator)
    means = values[chosen].mean(1).sort().values
    mean = values.mean()
    equal = (means - mean).abs() <= 1e-12 * values.abs().max()  # another order rounds otherwise
    under = ((means < mean) & ~equal).double().mean() + equal.double().mean() / 2
    below = under.clamp(1 / RESAMPLES, 1 - 1 / RESAMPLES).item()
    bias = NORMAL.inv_cdf(below)
    off = values - mean  # the jackknife's differences, but for a factor
    skew = (off**3).sum().item() / (6 * (off**2).sum().item() ** 1.5)
    ends = []
    for share in (0.025, 0.975):
        z = bias + NORMAL.inv_cdf(share)
        at = NORMAL.cdf(bias + z / (1 - skew * z))
        ends.append(means[min(RESAMPLES - 1, int(at * RESAMPLES))].item())
    return ends[0], ends[1]


def ratio(x: Tensor, y: Tensor, generator: torch.Generator) -> Interval:
    """Return mean(x) / mean(y) of pairs with its 95 % interval; nan where mean(y) is 0.

    BCa over the linearised ratio, whose mean is the ratio itself (Cochran 1977, Sampling
    Techniques, 6.4). A mean of ratios would follow the pairs in which y is nearly 0.

    Args:
        x, y: `n`; a pair that is nan in either does not count.
    """
    known = ~(x.isnan() | y.isnan())
    x, y = x[known].double(), y[known].double()
    if len(x) == 0 or y.mean() == 0:
        return Interval(math.nan, math.nan, math.nan, len(x))
    value = (x.mean() / y.mean()).item()
    return Interval(value, *bootstrap(value + (x - value * y) / y.mean(), generator), len(x))


def paired_p(differences: Tensor, generator: torch.Generator) -> float:
    """Return the two-sided p-value of a mean difference.

    Differences of shares by McNemar's exact test (binomial over the pairs that disagree), others by
    flipping signs at random (Fisher's permutation test).
    """
    moved = differences[differences != 0].double()
    n = len(moved)
    if n == 0:
        return 1.0
    if (moved.abs() == 1).all():
        fewer = min(int((moved > 0).sum()), int((moved < 0).sum()))
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)
    signs = torch.randint(2, (FLIPS, n), generator=generator).double() * 2 - 1
    extreme = ((signs @ moved).abs() >= moved.sum().abs() * (1 - 1e-12)).sum().item()
    return (extreme + 1) / (len(signs) + 1)


def holm(p_values: list[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
