"""The rows of a folder of the world: a function of seed and number, with its scenes."""

from t2v.config.world import WorldClipsConfig
from t2v.world.grammar import caption, random_scene
from t2v.world.run import _row, clip_generator

SHAPE = (49, 64, 64)


def row(index: int, **settings):
    return _row(WorldClipsConfig(output="", num_frames=49, **settings), index, SHAPE, "shard", 0)


def test_a_story_has_as_many_scenes_as_asked_each_with_caption_and_truth():
    scenes = row(0, acts=1.0, scenes=3)["scenes"]
    assert [(scene["start"], scene["end"]) for scene in scenes] == [(0, 17), (17, 33), (33, 49)]
    assert all(set(scene) == {"start", "end", "caption", "truth"} for scene in scenes)
    assert row(0, acts=1.0, scenes=3) == row(0, acts=1.0, scenes=3)


def test_without_acts_and_speeds_scenes_and_captions_are_those_of_earlier_versions():
    for index in range(20):
        generator = clip_generator(0, "train", index)
        scene = random_scene(generator)
        found = row(index)
        assert found["truth"] == scene.truth() and "scenes" not in found
        assert found["captions"] == [caption(scene, generator) for _ in range(4)]
