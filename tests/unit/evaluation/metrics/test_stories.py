"""Judges of long videos: each reads a made-up fault of known size as that size."""

import math

import pytest
import torch

from t2v.evaluation.metrics.stories import (
    StoryScene,
    colour_drift,
    drift,
    flicker,
    identity_kept,
    scene_answers,
    seam_energy,
    sharpness_drift,
    switches,
)
from t2v.evaluation.types import blurred_copy
from t2v.world.grammar import Scene, Thing
from t2v.world.labels import HEADS
from t2v.world.oracle import WorldOracle
from t2v.world.render import render


def ramp(step, count=16):
    """A video that brightens by `step` levels a frame, `1 t 16 16 3`."""
    levels = (torch.arange(count) * step + 20).to(torch.uint8)
    return levels[None, :, None, None, None].expand(1, count, 16, 16, 3).clone()


@pytest.fixture(scope="module")
def clip():
    thing = Thing(shape="star", colour="red", size="big", motion="bounce")
    return render(Scene(things=(thing,), background="sand", camera="pan left"), 16)[0][None]


def test_a_jump_at_an_edge_is_told_from_the_steps_inside():
    video = ramp(step=4)
    assert seam_energy(video, [5, 10]).tolist() == [[1, 1]]
    video[:, 10:] += 8
    assert seam_energy(video, [5, 10]).tolist() == [[1, 3]]
    assert math.isnan(seam_energy(video[:, :1].repeat(1, 16, 1, 1, 1), [5]).item())


def test_a_cut_that_was_asked_for_is_no_step_at_all():
    video = ramp(step=4)
    video[:, 8:] += 100
    assert seam_energy(video, [4, 12], without=[8]).tolist() == [[1, 1]]
    assert seam_energy(video, [4, 12])[0, 0] < 0.5


def test_drift_is_of_the_last_scene_beside_the_real_one(clip):
    real = torch.cat([clip, clip.flip(4), 255 - clip], dim=1)
    spans = [(0, 16), (16, 32), (32, 48)]
    assert [each.item() for each in drift(real, real, spans)] == [0, 0]
    dim = (real.float() * 0.9).round().to(torch.uint8)
    colour, sharp = (each.item() for each in drift(dim, real, spans))
    assert abs(colour) < 0.5 and abs(sharp) < 1  # it is off from the first scene on
    faded = torch.cat([real[:, :32], dim[:, 32:]], dim=1)
    colour, sharp = (each.item() for each in drift(faded, real, spans))
    assert colour == pytest.approx(10, abs=0.5) and sharp == pytest.approx(-10, abs=1)


def test_colours_that_fade_are_read_in_percent_of_the_start(clip):
    still = clip[:, :1].repeat(1, 20, 1, 1, 1)
    assert colour_drift(still, 5).tolist() == [[0, 0, 0, 0]]
    still[:, 10:] = (still[:, 10:] * 0.9).round().to(torch.uint8)
    assert colour_drift(still, 5)[0].tolist() == pytest.approx([0, 0, 10, 10], abs=0.1)
    assert colour_drift(still[:, :19], 5).shape == (1, 3)  # whole spans alone


def test_blur_that_grows_is_a_loss_of_sharpness(clip):
    video = torch.cat([clip, blurred_copy(clip, 3), blurred_copy(clip, 5)], dim=1)
    start, soft, softer = sharpness_drift(video, 16)[0].tolist()
    assert start == 0 and 0 > soft > softer > -100
    contrast = ((clip.float() - 128) * 0.5 + 128).to(torch.uint8)  # half of every slope
    assert sharpness_drift(torch.cat([clip, contrast], 1), 16)[0, 1] == pytest.approx(-50, abs=2)


def test_brightness_that_alternates_is_flicker_and_steady_change_is_not(clip):
    assert flicker(ramp(step=4)).item() == 0
    blinking = ramp(step=0)
    blinking[:, ::2] += 6
    assert flicker(blinking).item() == pytest.approx(3)
    dim = (clip * 0.9).to(torch.uint8)
    shaken = dim.clone()
    shaken[:, ::2] += 10
    assert flicker(shaken) > 4 * flicker(dim) > 0  # of what moves


def thing(**other):
    return {"shape": "cube", "colour": "red", "size": "big", "motion": "still"} | other


def story(*things, background="sand"):
    """Scenes of five frames, one thing each, and an answer for each that is right."""
    truths = [
        {"background": background, "camera": "still", "count": 1, "things": [thing(**each)]}
        for each in things
    ]
    scenes = [StoryScene(5 * i, 5 * i + 5, truth) for i, truth in enumerate(truths)]
    read = [
        {name: classes[0] for name, (classes, _) in HEADS.items()}
        | {"background": truth["background"], "camera": "still", "count": "1"}
        | {f"{name}1": value for name, value in truth["things"][0].items()}
        for truth in truths
    ]
    return scenes, read


def test_a_switch_counts_where_what_changes_became_as_asked():
    scenes, read = story({}, {"motion": "spin"}, {"motion": "spin", "colour": "blue"}, {})
    assert switches(scenes, read) == [True, True, True]
    late = [read[0], read[0], read[2], read[3]]  # the second scene shows still the first
    assert switches(scenes, late) == [False, True, True]
    # what does not change is none of its business
    assert switches(scenes, [read[0], read[1] | {"background": "sea"}, *read[2:]]) == [True] * 3
    same, as_same = story({}, {})
    assert switches(same, as_same) == []


def test_identity_is_kept_where_shape_and_colour_stay_as_they_were_read():
    scenes, read = story({}, {"motion": "spin"}, {"motion": "spin", "colour": "blue"})
    assert identity_kept(scenes, read) == [True, True]
    pink = [read[0], read[1] | {"colour1": "pink"}, read[2]]
    assert identity_kept(scenes, pink) == [False, True]  # the new colour was asked for
    always = [each | {"shape1": "ring"} for each in read]
    assert identity_kept(scenes, always) == [True, True]  # wrong, and the same throughout
    assert identity_kept(*story({}, {"shape": "ball", "colour": "blue"})) == []


def test_each_scene_is_read_in_its_own_frames(clip):
    torch.manual_seed(0)
    oracle = WorldOracle(width=8).eval()
    video = torch.cat([clip, 255 - clip], dim=1)[0]
    scenes = [StoryScene(0, 16, {}), StoryScene(16, 32, {})]
    read = scene_answers(oracle, video, scenes)
    assert read == [*scene_answers(oracle, video[:16], scenes[:1]),
                    *scene_answers(oracle, video[16:], scenes[:1])]  # fmt: skip
