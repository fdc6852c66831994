"""The caption that reads as users write is found, whatever it is about."""

import pytest

from t2v.curation.text.selection import Candidate, choose
from t2v.curation.text.style import FAR, LEAST, Style, style_of
from t2v.errors import UserError

THINGS = ("dog", "red car", "tall tree", "old woman", "small boat", "white bird")
ACTS = ("runs", "waits quietly", "turns around", "moves to the left")
PLACES = ("on a beach", "in the snow", "at night", "near a lake", "in the city")
SCENES = [(t, a, p) for t in THINGS for a in ACTS for p in PLACES]
FORMS = {
    "plain": "a {} {} {}",
    "sentence": "A {} {} {}.",
    "tags": "{}, {}, {}",
    "prose": "In this video we can see a {} that {}. It all takes place {}, as the light fades.",
}


def texts(form: str, scenes: list[tuple[str, str, str]]) -> list[str]:
    return [FORMS[form].format(*each) for each in scenes]


@pytest.mark.parametrize("form", FORMS)
def test_of_the_same_scene_the_wording_of_the_prompts_is_nearest(form):
    style = Style.of(texts(form, SCENES[::2]))
    for scene in SCENES[1::2]:
        far = {name: style.distance(other.format(*scene)) for name, other in FORMS.items()}
        assert min(far, key=lambda each: far[each]) == form
        assert 0 <= far[form] < 1.5 and max(far.values()) <= FAR


def test_words_that_users_use_are_nearer_than_others_in_the_same_form():
    style = Style.of(texts("plain", SCENES))
    assert style.distance("a dog runs in the snow") < style.distance("a quokka jogs in the tundra")


def test_the_style_chooses_among_those_that_fit_as_well_as_the_best():
    best = Candidate(author="a", text="long", score=0.9, style=3.0)
    near = Candidate(author="b", text="short", score=0.8, style=1.0)
    wrong = Candidate(author="c", text="wrong", score=0.1, style=0.5)
    bad = Candidate(author="d", text="bad", verdict="repetition", style=0.0)
    every = [best, near, wrong, bad]
    chosen = [choose(every, within) for within in (0.0, 0.15, None)]
    assert [each.author for each in chosen] == ["a", "b", "c"]


def test_a_file_of_too_few_prompts_is_no_style(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a dog runs\n" * LEAST)
    with pytest.raises(UserError, match=rf"holds 1 different prompts and {LEAST} are needed"):
        style_of(str(file))
    file.write_text("\n".join(texts("plain", SCENES)))
    assert style_of(str(file)).mean[0] > 1
    with pytest.raises(UserError, match=r"caption\.style .*missing"):
        style_of(str(tmp_path / "missing.txt"))


def test_texts_of_marks_or_nothing_are_far_and_no_error():
    style = Style.of(texts("plain", SCENES))
    assert min(style.distance(text) for text in ("", "...", "?!")) > 2
