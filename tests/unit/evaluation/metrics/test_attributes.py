"""Answers of the oracle are compared with the scenes that prompts describe."""

import pytest
import torch

from t2v.errors import UserError
from t2v.evaluation.metrics.attributes import (
    ATTRIBUTES,
    answers_of_parts,
    compared,
    measure,
    most_common,
    right,
    scene_parts,
)
from t2v.evaluation.suites import Suite, heldout_prompts
from t2v.evaluation.types import Videos
from t2v.world.labels import HEADS, labels
from t2v.world.oracle import WorldOracle
from t2v.world.story import random_story


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
    everything = compared(scene_parts(truths, 17), wrong, "x", len(truths))["all"].values
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


@pytest.fixture
def stories():
    generator = torch.Generator().manual_seed(0)
    return [random_story(generator, (0, 17), "heldout") for _ in range(6)]


def test_each_act_is_asked_of_its_own_frames_and_all_must_be_right(stories):
    truths = [story.truth() for story in stories]
    parts = scene_parts(truths, 33)
    assert [(part.video, part.start, part.end) for part in parts[:3]] == [
        (0, 0, 17), (0, 17, 33), (1, 0, 17),
    ]  # fmt: skip
    answers = _right([part.truth for part in parts])
    found = compared(parts, answers, "x", 6)
    assert found["background"].values.tolist() == [1] * 6
    answers[3]["background"] = "nowhere"  # the second act of the second story
    found = compared(parts, answers, "x", 6)
    assert found["background"].values.tolist() == [1, 0, 1, 1, 1, 1]
    assert found["two colours"].values.isnan().all()


def test_parts_are_read_as_clips_of_their_own(stories):
    suite = Suite("acts", ("",) * 6, ("",) * 6, tuple(stories))
    video, _ = suite.real(33, 64, 64)
    oracle = WorldOracle(width=8).eval()
    parts = scene_parts(suite.truths(), 33)
    read = answers_of_parts(oracle, video, parts)
    one = answers_of_parts(oracle, video[3:4, 17:], scene_parts([parts[7].truth], 16))
    assert [read[7]] == one
    found = measure(Videos(video, suite.prompts, 8.0, truths=suite.truths()), oracle)
    assert all(len(each.values) == 6 for each in found.values())


def test_a_scene_behind_the_last_frame_is_named(stories):
    with pytest.raises(UserError, match=r"num_frames=17: a scene of prompt 1 begins with frame 17"):
        scene_parts([stories[0].truth()], 17)
