"""Bounds for unseen prompts keep what they promise, and agree with scipy's."""

import math

import pytest
import torch
from scipy.stats import nct

from t2v.acceleration.bounds import (
    CONFIDENCE,
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


def test_the_middle_has_an_interval_of_its_own_values():
    assert middle([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert middle([float(i) for i in range(16)]) == (7.5, 3.0, 12.0)  # binomial: 96.2 %
