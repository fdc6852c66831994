"""Agreement finds the odd one out, names never win, and merging adds only what is new."""

import pytest

from t2v.curation.text.selection import (
    Candidate,
    agreement,
    choose,
    merged,
    without_names,
)

DOG = "A brown dog runs across a wet meadow and shakes water from its fur."
ALSO_DOG = "A dog is running through a meadow, shaking off water."
CAKE = "A woman bakes a chocolate cake in a kitchen."


def candidates(*pairs: tuple[str, str], **common: object) -> list[Candidate]:
    return [Candidate(author=author, text=text, **common) for author, text in pairs]


def scored(heard: list[Candidate]) -> list[Candidate]:
    scores = agreement(heard)
    return [
        Candidate(author=each.author, text=each.text, score=score)
        for each, score in zip(heard, scores, strict=True)
    ]


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_the_one_that_describes_something_else_is_never_chosen(odd):
    texts = [DOG, ALSO_DOG]
    texts.insert(odd, CAKE)
    heard = scored(candidates(*zip("abc", texts, strict=True)))
    assert heard[odd].score == min(each.score for each in heard)
    assert choose(heard).text != CAKE


def test_of_two_that_agree_as_much_the_more_trusted_is_taken():
    heard = scored(candidates(("first", DOG), ("second", CAKE)))
    assert choose(heard).author == "first"
    assert choose(heard[::-1]).author == "second"


def test_captions_of_one_author_do_not_vouch_for_each_other():
    frames = [(f"model:x @ {time} s", CAKE) for time in (0, 1, 2)]
    heard = scored(candidates(*frames, ("sidecar", DOG), ("table", ALSO_DOG)))
    assert choose(heard).author in ("sidecar", "table")


def test_a_name_is_taken_only_where_nobody_has_seen_the_clip():
    name, seen, blank = candidates(("filename", "dog"), ("sidecar", DOG), ("sidecar", ""))
    assert [each.author for each in without_names([name, seen]) if not each.verdict] == ["sidecar"]
    assert without_names([name, blank]) == [name, blank]
    silent = Candidate(author="https://host/v1#it", text="", verdict="no answer: HTTP 500")
    assert without_names([silent, name])[1].verdict == "a name counts where nobody else speaks"
    assert choose(candidates(("sidecar", DOG), verdict="repetition", score=1.0)) is None


def test_merging_adds_what_is_new_and_of_the_same_thing():
    fine = "A dog runs on a meadow. The dog wears a red collar with a bell. It rains in Paris."
    assert merged("A dog runs over a meadow", [fine]) == (
        "A dog runs over a meadow. The dog wears a red collar with a bell."
    )
    assert merged(CAKE, ["A woman bakes a cake."]) == CAKE
