"""Wrong captions are false, and wrong by one phrase; wrong clips hold the same frames."""

import torch

from t2v.evaluation.hard_negatives import (
    KINDS,
    counterfactual,
    meaning,
    moves,
    rests,
    shuffled,
)
from t2v.world.grammar import caption, random_scene


def wrong_captions(kind: str, text: str, count: int = 20) -> set[str | None]:
    return {counterfactual(text, torch.Generator().manual_seed(n), (kind,)) for n in range(count)}


def test_captions_of_one_scene_mean_the_same_and_a_wrong_one_does_not():
    asked = set()
    for seed in range(200):
        source = torch.Generator().manual_seed(seed)
        scene = random_scene(source)
        one, other = caption(scene, source), caption(scene, source)
        assert meaning(one) == meaning(other)
        for kind in KINDS:
            wrong = counterfactual(one, source, (kind,))
            assert wrong is None or meaning(wrong) != meaning(one)
            assert not any(f" a {vowel}" in f" {wrong}" for vowel in "aeio")
            asked |= {kind} if wrong else set()
    assert asked == set(KINDS)
    assert meaning("an old man laughs") == "an old man laughs"


def test_one_phrase_is_exchanged_and_the_rest_stays():
    assert wrong_captions("direction", "a red ball slides to the left on grass") <= {
        f"a red ball {motion} on grass"
        for motion in ("slides to the right", "moves right", "rolls right", "glides to the right")
    }
    assert wrong_captions("count", "two red balls rest on grass") == {
        "three red balls rest on grass"
    }
    assert wrong_captions("binding", "an orange star and a red cube rest at dusk") == {
        "a red star and an orange cube rest at dusk"
    }
    assert wrong_captions("size", "a big ball rests at dusk") == {
        f"a {size} ball rests at dusk" for size in ("small", "tiny", "little")
    }
    assert all("spins" not in text for text in wrong_captions("motion", "a red ball rests", 200))
    assert any("spins" in text for text in wrong_captions("motion", "a red cube rests", 200))


def test_a_word_inside_another_phrase_is_left_alone():
    assert wrong_captions("colour", "a ball rests on a green field") == {None}
    assert wrong_captions("shape", "it rests under the stars") == {None}
    assert wrong_captions("binding", "a red ball and a red cube rest at dusk") == {None}
    assert wrong_captions("binding", "a red car, a red bus and a blue bike") == {
        None
    }  # whose is which?
    assert counterfactual("an old man laughs", torch.Generator()) is None


def test_what_moves_and_what_rests():
    assert moves("a ball floats up while a cube spins at dusk") == {"rise", "spin"}
    assert moves("a ball rests, the camera pans left") == {"pan left"}
    assert rests("a ball lies on sand") and not rests("an old man laughs")
    assert not rests("a ball rests at dusk, the camera zooms in")


def test_a_shuffled_clip_has_the_same_frames_in_another_order():
    video = torch.arange(5).reshape(1, 5, 1, 1, 1).expand(2, 5, 2, 2, 3)
    for seed in range(20):
        mixed = shuffled(video, torch.Generator().manual_seed(seed))
        assert not torch.equal(mixed, video)
        assert torch.equal(mixed.sort(1).values, video)
