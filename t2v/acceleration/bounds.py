"""Bounds that hold for prompts which were not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, mean, stdev

import torch

SHARE, CONFIDENCE = 0.98, 0.95  # of unseen prompts that a bound holds for, and how surely
LEAST = 1e-6  # an error up to it is rounding
MOST_DB = 98.0  # of frames that are equal: their steps are of 1/255
NO_BOUND = 1e6  # an error up to which a bound says nothing
NORMAL = NormalDist()


def upper_bound(errors: Sequence[float]) -> float:
    """The relative error that at most 2 % of unseen prompts exceed, with a confidence of 95 %.

    A one-sided tolerance bound of the errors' logarithms, as if these were normal
    (`exp(mean + k stdev)`, k of `tolerance_factor`), and never below the largest that was seen.
    Errors of 0, where the video is the exact one, have no logarithm: the bound is of the others,
    which 2 % of them exceed and fewer of all. Where all are 0, nothing was left out.

    Args:
        errors: of each prompt.

    Returns:
        `LEAST` or more; `NO_BOUND` where the errors are too few or too different for a bound.
    """
    found = [math.log(each) for each in errors if each > LEAST]
    if not found:
        return LEAST
    beyond = _beyond(found)
    return max(math.exp(beyond), *errors) if beyond < math.log(NO_BOUND) else NO_BOUND


def lower_bound(decibels: Sequence[float]) -> float:
    """The PSNR in dB below which at most 2 % of unseen prompts fall, with a confidence of 95 %.

    As `upper_bound`, of decibels, which are logarithms already; of frames that are not equal.

    Returns:
        0, which says nothing, to `MOST_DB`.
    """
    found = [-each for each in decibels if each < MOST_DB]
    return max(0.0, min(-_beyond(found), *decibels)) if found else MOST_DB


def _beyond(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.inf
    return mean(values) + tolerance_factor(len(values)) * stdev(values)


@lru_cache
def tolerance_factor(n: int, share: float = SHARE, confidence: float = CONFIDENCE) -> float:
    """The standard deviations above the mean of `n` normal values below which a share of all lies.

    k with P(mean + k s >= quantile of the share) = confidence. The mean of n standard normal values
    is normal with variance 1/n and independent of s, whose square is chi-square by its degrees of
    freedom, so the probability is the mean over s of Phi(sqrt(n) (k s - z)) (Owen, "Factors for
    one-sided tolerance limits", 1963): here a sum over a fine grid of s, solved by halving.

    Args:
        n: values, 2 or more.
        share, confidence: in (0, 1).
    """
    freedom, z = n - 1, NORMAL.inv_cdf(share)
    s = torch.linspace(1e-4, 6.0, 6000, dtype=torch.float64)
    weight = ((freedom - 1) * s.log() - freedom * s**2 / 2).softmax(0)
    low, high = 0.0, 1000.0
    while high - low > 1e-6 * high:
        k = (low + high) / 2
        above = torch.special.ndtr(math.sqrt(n) * (k * s - z))
        low, high = (k, high) if float(weight @ above) < confidence else (low, k)
    return high


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, and an interval that holds that of all with at least 95 % (of up to five values
    their range, which holds it less surely)."""
    ordered, n = sorted(values), len(values)
    out = 0  # values to leave out at each end
    while sum(math.comb(n, i) for i in range(out + 1)) / 2**n <= 0.025 and out + 1 < n / 2:
        out += 1
    out = max(out - 1, 0) if n > 5 else 0
    half = n // 2
    median = ordered[half] if n % 2 else (ordered[half - 1] + ordered[half]) / 2
    return median, ordered[out], ordered[n - 1 - out]
