"""Foils of time are false, and true captions have the same words: the text alone tells nothing."""

import pytest
import torch

from t2v.evaluation.foils import TIME_KINDS, foil, has_direction, links, restated
from t2v.world.grammar import caption, random_paced_scene, random_repeated_scene, random_scene
from t2v.world.story import random_story, story_caption


def foils(kind: str, text: str, count: int = 30) -> set[str | None]:
    return {foil(text, kind, torch.Generator().manual_seed(n)) for n in range(count)}


def tellings(text: str) -> set[str]:
    return {restated(text, torch.Generator().manual_seed(n)) for n in range(60)}


RISES = "a red ball rises on grass, then it drops down"


def test_two_acts_are_told_in_the_other_order_by_their_phrases_or_by_the_connective():
    assert foils("order", RISES) == {
        "a red ball drops down on grass, then it rises",
        "a red ball rises on grass after it drops down",
    }
    assert foils("order", "a red cube rests at dusk, then it turns orange") == {
        "an orange cube rests at dusk, then it turns red"
    }
    assert foils("order", "in the snow, a star spins and then the star is on the sea") == {
        "on the sea, a star spins and then the star is in the snow"
    }
    assert foils("order", "a clip where after a cube spins, it bounces") == {
        "a clip where before a cube spins, it bounces",
        "a clip where after a cube bounces, it spins",
    }


def test_what_is_wrong_in_two_ways_is_true():
    assert tellings(RISES) == {
        RISES,
        "a red ball rises on grass before it drops down",
        "a red ball drops down on grass after it rises",
    }
    true, false = tellings(RISES), set[str | None]()
    for text in true:
        false |= foils("order", text)
    assert not true & false
    for word in (", then", " before ", " after "):
        assert any(word in text for text in true) and any(word in str(text) for text in false)
    assert restated("a red ball rests", torch.Generator()) == "a red ball rests"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("A man sits down, then he stands up.", "A man sits down after he stands up."),
        ("a boy sits down and then stands up", "a boy sits down after standing up"),
        ("a plane lands, then flies off", "a plane lands after flying off"),
        ("a woman claps before she bows", "a woman claps after she bows"),
        ("a woman bows after the crowd cheers", "a woman bows before the crowd cheers"),
        ("After the sun sets, the boats come in", "Before the sun sets, the boats come in"),
    ],
)
def test_the_order_of_other_words_is_turned_round(text, wrong):
    assert foils("order", text) == {wrong}


def test_of_three_acts_two_are_exchanged():
    text = "a cube moves left, then it spins, then it bounces"
    assert len(links(text)) == 2
    found = foils("order", text)
    assert "a cube spins, then it moves left, then it bounces" in found
    assert "a cube moves left, then it spins after it bounces" in found
    assert len(found) == 4 and text not in found


@pytest.mark.parametrize(
    ("kind", "text", "wrong"),
    [
        ("adverb", "a ball slowly rises", {"a ball quickly rises"}),
        ("adverb", "a ball rises slowly at dusk", {"a ball rises quickly at dusk",
                                                   "a ball rises fast at dusk"}),
        ("adverb", "a ball rises fast", {"a ball rises slowly"}),
        ("adverb", "a fast car passes loudly", {"a fast car passes quietly"}),
        ("repetition", "a cube hops once", {"a cube hops twice", "a cube hops two times",
                                            "a cube hops three times"}),
        ("repetition", "he knocks 5 times", {"he knocks 4 times", "he knocks 6 times"}),
        ("repetition", "he jumps ten times", {"he jumps nine times"}),
    ],
)  # fmt: skip
def test_an_adverb_becomes_its_opposite_and_a_count_another(kind, text, wrong):
    assert foils(kind, text) == wrong


@pytest.mark.parametrize(
    "text",
    ["a fast car", "once it stops", "two times as big", "at once", "a man runs after the dog",
     "a man bows before a crowd", "then and now", "two red balls rest on grass"],
)  # fmt: skip
def test_where_no_rule_applies_for_sure_there_is_no_foil(text):
    assert [foil(text, kind, torch.Generator()) for kind in TIME_KINDS] == [None] * 3


def test_captions_of_the_world_have_the_foils_of_what_they_tell():
    generator = torch.Generator().manual_seed(0)
    draws = {
        "order": lambda: story_caption(random_story(generator, (0, 9)), generator),
        "adverb": lambda: caption(random_paced_scene(generator), generator),
        "repetition": lambda: caption(random_repeated_scene(generator), generator),
        None: lambda: caption(random_scene(generator), generator),
    }
    for kind, draw in draws.items():
        for _ in range(40):
            text = restated(draw(), generator)
            found = [each for each in TIME_KINDS if foil(text, each, generator) not in (None, text)]
            assert found == ([kind] if kind else []), text


def test_acts_that_are_the_same_backwards_are_not_belied_by_it():
    assert has_direction("a ball floats up") and has_direction("it rests, the camera zooms in")
    assert not has_direction("a cube spins") and not has_direction("a ball bounces on sand")
    assert not has_direction(RISES) and not has_direction("a ball moves left, then it moves right")
    assert has_direction("a ball falls, then it bounces")
    assert has_direction("a cube rests, then it spins")
    assert has_direction("a red cube spins, then it turns blue")
