"""Scores on held-out prompts."""

import math

import pytest
import torch

from t2v.evaluation.world import ATTRIBUTES, heldout_prompts, most_common, score, table, wilson
from t2v.world.labels import HEADS, labels


@pytest.fixture
def truths():
    return [scene.truth() for scene in heldout_prompts(60, seed=3)[0]]


def _right(truths):
    indices = labels(truths)
    return [
        {name: HEADS[name][0][max(0, indices[name][i])] for name in HEADS}
        for i in range(len(truths))
    ]


def test_right_answers_score_one_and_wrong_ones_zero(truths):
    answers = _right(truths)
    assert all(c["share"] == 1 or c["n"] == 0 for c in score(truths, answers).values())
    wrong = [{**answer, "background": "nowhere"} for answer in answers]
    assert score(truths, wrong)["background"]["share"] == 0


def test_two_colours_need_both(truths):
    answers = [{**answer, "colour2": "none"} for answer in _right(truths)]
    columns = score(truths, answers)
    assert columns["two colours"]["n"] > 0
    assert columns["two colours"]["share"] == 0
    assert columns["colour"]["share"] == 1


def test_the_most_common_answer_is_worse_than_the_truth(truths):
    columns = score(truths, most_common(truths))
    assert 1 / 6 <= columns["background"]["share"] < 0.6


def test_wilson_matches_published_values():
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20)[0] == pytest.approx(0, abs=1e-9)
    assert all(map(math.isnan, wilson(0, 0)))


def test_prompts_of_a_seed_are_fixed():
    assert heldout_prompts(5, seed=1) == heldout_prompts(5, seed=1)
    assert heldout_prompts(5, seed=1) != heldout_prompts(5, seed=2)


def test_the_table_names_every_attribute_and_row(truths):
    text = table({"model": score(truths, _right(truths))})
    assert all(attribute.name in text for attribute in ATTRIBUTES)
    assert "| model |" in text


def test_the_judge_takes_any_length_and_size():
    from t2v.world.oracle import WorldOracle

    oracle = WorldOracle(width=8).eval()
    answers = oracle.judge(torch.rand(2, 3, 9, 32, 48) * 2 - 1)
    assert [set(answer) for answer in answers] == [set(HEADS)] * 2
