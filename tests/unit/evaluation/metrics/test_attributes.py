"""Answers of the oracle are compared with the scenes that prompts describe."""

import pytest
import torch

from t2v.evaluation.metrics.attributes import ATTRIBUTES, compared, most_common, right
from t2v.evaluation.suites import heldout_prompts
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


def mean(values):
    return values.nanmean().item()


def test_right_answers_score_one_and_wrong_ones_zero(truths):
    answers = _right(truths)
    found = right(truths, answers)
    assert all((each[~each.isnan()] == 1).all() for each in found.values())
    wrong = [{**answer, "background": "nowhere"} for answer in answers]
    assert mean(right(truths, wrong)["background"]) == 0
    everything = compared(truths, wrong, "x")["all"].values
    asked = torch.stack(list(found.values())).isnan().logical_not().sum(0)
    assert torch.allclose(everything, 1 - 1 / asked)


def test_two_colours_need_both(truths):
    answers = [{**answer, "colour2": "none"} for answer in _right(truths)]
    found = right(truths, answers)
    assert (~found["two colours"].isnan()).any()
    assert mean(found["two colours"]) == 0
    assert mean(found["colour"]) == 1


def test_the_most_common_answer_is_worse_than_the_truth(truths):
    assert 1 / 6 <= mean(right(truths, [most_common(truths)] * 60)["background"]) < 0.6


def test_prompts_of_a_seed_are_fixed():
    assert heldout_prompts(5, seed=1) == heldout_prompts(5, seed=1)
    assert heldout_prompts(5, seed=1) != heldout_prompts(5, seed=2)


def test_every_attribute_is_asked(truths):
    assert list(right(truths, _right(truths))) == [attribute.name for attribute in ATTRIBUTES]
