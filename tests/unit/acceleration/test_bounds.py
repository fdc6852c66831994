"""Bounds for unseen prompts keep what they promise, and agree with scipy's."""

import math

import pytest
import torch
from scipy.stats import nct

from t2v.acceleration.bounds import (
    CONFIDENCE,
    LEAST,
    MOST_DB,
    NO_BOUND,
    NORMAL,
    SHARE,
    lower_bound,
    middle,
    tolerance_factor,
    upper_bound,
)


@pytest.mark.parametrize("n", [3, 4, 8, 32])
@pytest.mark.parametrize("share", [0.9, SHARE])
def test_the_factor_is_that_of_the_noncentral_t(n, share):
    z = NORMAL.inv_cdf(share)
    exact = nct.ppf(CONFIDENCE, n - 1, z * math.sqrt(n)) / math.sqrt(n)
    assert tolerance_factor(n, share) == pytest.approx(exact, rel=1e-4)


def test_the_bound_covers_the_share_of_unseen_errors_as_surely_as_it_says():
    generator = torch.Generator().manual_seed(1)
    held = 0
    for _ in range(400):
        seen = (torch.randn(8, generator=generator) * 0.4 - 3).exp().tolist()
        limit = math.exp(-3 + 0.4 * NORMAL.inv_cdf(SHARE))  # 2 % of all errors are beyond
        held += upper_bound(seen) >= limit
    assert 0.92 < held / 400 < 0.98


def test_no_bound_lies_inside_what_was_seen():
    errors = [0.01, 0.011, 0.0105, 0.3]
    assert upper_bound(errors) >= 0.3 and upper_bound([0.0, 0.0, 0.0, 0.0]) < 1e-5
    assert lower_bound([40.0, 41.0, 20.0, 40.5]) <= 20.0
    assert lower_bound([40.0, 41.0, 39.0]) < upper_bound([40.0, 41.0, 39.0])


def test_errors_of_zero_leave_a_bound_that_holds_and_says_something():
    generator = torch.Generator().manual_seed(2)
    held, bounds = 0, []
    for _ in range(400):
        seen = (torch.randn(16, generator=generator) * 0.4 - 3).exp()
        seen[torch.rand(16, generator=generator) < 0.4] = 0.0
        # 2 % of all errors are beyond, so 1 in 30 of those that are not 0
        limit = math.exp(-3 + 0.4 * NORMAL.inv_cdf(1 - (1 - SHARE) / 0.6))
        bounds.append(upper_bound(seen.tolist()))
        held += bounds[-1] >= limit
    assert held / 400 > 0.93
    assert sum(each < 0.5 for each in bounds) > 380  # the largest errors are about .13
    assert upper_bound([0.0, 0.0, 0.05, 0.06, 0.055]) == upper_bound([0.05, 0.06, 0.055])
    assert lower_bound([MOST_DB, 40.0, 41.0, 39.0]) == lower_bound([40.0, 41.0, 39.0])


def test_of_one_error_alone_there_is_no_bound():
    assert upper_bound([0.0, 0.0, 0.0, 0.05]) == NO_BOUND == upper_bound([1e-5, 1.0, 0.0, 0.0])
    assert lower_bound([MOST_DB, MOST_DB, 40.0]) == 0
    assert (upper_bound([0.0] * 4), lower_bound([MOST_DB] * 4)) == (LEAST, MOST_DB)


def test_the_middle_has_an_interval_of_its_own_values():
    assert middle([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert middle([float(i) for i in range(16)]) == (7.5, 3.0, 12.0)  # binomial: 96.2 %
