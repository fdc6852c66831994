"""Intervals cover what they promise, tests find what is there and nothing else."""

import math

import pytest
import torch

from t2v.curation.shares import wilson
from t2v.evaluation.intervals import bootstrap, holm, paired_p, ratio, summary


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_bootstrap_intervals_cover_the_mean_of_a_skewed_source(generator):
    covered = 0
    for _ in range(200):
        values = torch.empty(60, dtype=torch.double).exponential_(1.0, generator=generator)
        low, high = bootstrap(values, generator)
        covered += low <= 1 <= high
    assert 178 <= covered <= 198  # 95 % of 200, less the little that 60 values cost


def test_two_values_have_an_interval_as_far_to_both_sides(generator):
    low, high = bootstrap(torch.tensor([0.0, 1.0], dtype=torch.double), generator)
    assert low == 0 and high == 1


def test_a_ratio_of_means_is_covered_and_exact_where_all_pairs_have_it(generator):
    covered = 0
    for _ in range(200):
        y = torch.empty(60, dtype=torch.double).exponential_(1.0, generator=generator)
        x = 1.5 * y + 0.5 * torch.randn(60, dtype=torch.double, generator=generator)
        found = ratio(x, y, generator)
        covered += found.low <= 1.5 <= found.high
    assert 178 <= covered <= 198
    whole = ratio(torch.tensor([2.0, 6.0, math.nan, 0]), torch.tensor([1.0, 3, 5, 0]), generator)
    assert (whole.value, whole.n) == (2, 3) and whole.low == whole.high == 2
    assert math.isnan(ratio(torch.ones(3), torch.zeros(3), generator).value)


def test_one_video_has_no_interval_and_unknown_values_do_not_count(generator):
    assert all(map(math.isnan, bootstrap(torch.ones(1), generator)))
    found = summary(torch.tensor([1.0, 0.0, 1.0, math.nan]), generator, is_share=True)
    assert (found.n, found.value) == (3, pytest.approx(2 / 3))
    assert found.low == pytest.approx(0.2077, abs=1e-3)  # Wilson's
    assert summary(torch.tensor([math.nan]), generator).n == 0
    assert summary(torch.zeros(9), generator).high == 0  # an amount, not a share


def test_pairs_are_tested_by_mcnemar_and_by_flipped_signs(generator):
    ones = torch.tensor([1.0] * 9 + [-1.0] + [0.0] * 40)
    assert paired_p(ones, generator) == pytest.approx(2 * 11 / 2**10)
    assert paired_p(torch.zeros(9), generator) == 1
    noise = torch.randn(50, generator=generator)
    assert paired_p(noise - noise.mean(), generator) > 0.9
    assert paired_p(0.8 + noise, generator) < 0.001


def test_p_values_are_adjusted_for_their_number(generator):
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]


def test_wilson_matches_published_values():
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20)[0] == pytest.approx(0, abs=1e-9)
    assert all(map(math.isnan, wilson(0, 0)))
