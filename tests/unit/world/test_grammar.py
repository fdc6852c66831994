"""The words of the world."""

import pytest
import torch

from t2v.world.grammar import (
    CAMERA_MOTIONS,
    PAIR_MOTIONS,
    REPEATS,
    UNSPUN,
    Scene,
    Thing,
    caption,
    is_heldout,
    random_paced_scene,
    random_repeated_scene,
    random_scene,
    words,
)
from t2v.world.labels import HEADS, labels


def _scenes(count: int, split: str = "train") -> list[Scene]:
    generator = torch.Generator().manual_seed(0)
    return [random_scene(generator, split) for _ in range(count)]


def test_training_scenes_never_hold_a_held_out_combination():
    assert not any(is_heldout(thing) for scene in _scenes(500) for thing in scene.things)


def test_held_out_scenes_always_hold_one():
    assert all(any(map(is_heldout, scene.things)) for scene in _scenes(100, "heldout"))


def test_the_same_generator_draws_the_same_scene_and_caption():
    def draw() -> tuple[Scene, str]:
        generator = torch.Generator().manual_seed(7)
        scene = random_scene(generator)
        return scene, caption(scene, generator)

    assert draw() == draw()


def test_scenes_show_what_their_caption_says():
    for scene in _scenes(500):
        assert scene.camera == "still" or scene.things[0].motion in CAMERA_MOTIONS
        assert len(scene.things) == 1 or all(t.motion in PAIR_MOTIONS for t in scene.things)
        assert not any(t.motion == "spin" and t.shape in UNSPUN for t in scene.things)


def test_a_caption_names_an_unusual_speed_and_truth_holds_it():
    generator = torch.Generator().manual_seed(1)
    words = {"slow": {"slowly"}, "fast": {"quickly", "fast"}}
    seen = set()
    for _ in range(100):
        scene = random_paced_scene(generator)
        (word,) = set(caption(scene, generator).split()) & {"slowly", "quickly", "fast"}
        assert word in words[scene.speed] and scene.truth()["speed"] == scene.speed
        assert len(scene.things) == 1 and scene.things[0].motion != "still"
        seen.add(word)
    assert seen == {"slowly", "quickly", "fast"}
    assert all("speed" not in scene.truth() for scene in _scenes(100))


def test_a_caption_tells_how_often_a_thing_hops_and_truth_holds_it():
    generator = torch.Generator().manual_seed(1)
    seen = set()
    for _ in range(60):
        scene = random_repeated_scene(generator)
        text = caption(scene, generator)
        (said,) = [times for times, words in REPEATS.items() if any(word in text for word in words)]
        assert said == scene.truth()["times"] and 0 <= scene.pause < 1
        seen.add(said)
    assert seen == set(REPEATS)
    assert all("times" not in scene.truth() for scene in _scenes(100))


def test_a_caption_uses_only_listed_words():
    known, generator = set(words()), torch.Generator().manual_seed(1)
    for scene in _scenes(500):
        assert set(caption(scene, generator).replace(",", "").split()) <= {
            word.replace(",", "") for word in known
        }


@pytest.mark.parametrize(("count", "number"), [(2, ("two", "a pair of")), (3, ("three",))])
def test_like_things_are_counted_and_not_listed(count, number):
    thing = Thing(shape="cube", colour="red", size="medium", motion="bounce")
    scene = Scene(things=(thing,) * count, background="grass", camera="still")
    text = caption(scene, torch.Generator().manual_seed(0))
    assert any(words in text for words in number)


def test_labels_name_each_thing_and_leave_missing_ones_open():
    one, two = (scene for n in (1, 2) for scene in [_first_with(n)])
    indices = labels([one.truth(), two.truth()])
    shapes = HEADS["shape2"][0]
    assert indices["shape2"].tolist() == [-1, shapes.index(two.things[1].shape)]
    assert set(indices) == set(HEADS)


def _first_with(count: int) -> Scene:
    return next(scene for scene in _scenes(200) if len(scene.things) == count)
