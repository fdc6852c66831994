"""The rows of a folder of the world: a function of seed and number, with its scenes."""

import pytest

from t2v.config.world import WorldClipsConfig
from t2v.errors import UserError
from t2v.world.grammar import BACKGROUNDS, SHAPES, caption, random_scene
from t2v.world.labels import labels
from t2v.world.run import _row, clip_generator

SHAPE = (49, 64, 64)


def row(index: int, **settings):
    return _row(WorldClipsConfig(output="", num_frames=49, **settings), index, SHAPE, "shard", 0)


def test_a_story_has_as_many_scenes_as_asked_each_with_caption_and_truth():
    scenes = row(0, acts=1.0, scenes=3)["scenes"]
    assert [(scene["start"], scene["end"]) for scene in scenes] == [(0, 17), (17, 33), (33, 49)]
    assert all(set(scene) == {"start", "end", "caption", "truth"} for scene in scenes)
    assert row(0, acts=1.0, scenes=3) == row(0, acts=1.0, scenes=3)


def test_a_made_up_picture_takes_the_place_of_the_landscape_and_no_caption_tells_of_it():
    places = [phrase for phrases in BACKGROUNDS.values() for phrase in phrases]
    nouns, needs = {form for forms in SHAPES.values() for both in forms for form in both}, []
    for index in range(40):
        found = row(index, collages=0.5)
        needs.append(found.get("needs_given", False))
        if needs[-1]:
            truth, texts = found["truth"], found["captions"]
            assert truth["background"] is None and labels([truth])["background"].tolist() == [-1]
            assert not [place for place in places for text in texts if place in text]
            for text in texts:
                assert bool(nouns & set(text.split())) == (truth["things"][0]["shape"] is not None)
    assert 10 < sum(needs) < 30


def test_shares_of_clips_that_exclude_each_other_add_up_to_one_at_most():
    with pytest.raises(UserError, match=r"collages=0\.5 repeats=0: a clip has acts, an unusual"):
        WorldClipsConfig(output="", acts=0.4, speeds=0.2, collages=0.5)


def test_without_acts_and_speeds_scenes_and_captions_are_those_of_earlier_versions():
    for index in range(20):
        generator = clip_generator(0, "train", index)
        scene = random_scene(generator)
        found = row(index)
        assert found["truth"] == scene.truth() and "scenes" not in found
        assert found["captions"] == [caption(scene, generator) for _ in range(4)]
