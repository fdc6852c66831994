"""The rules find the planted defects, leave what only looks like one, and mend what loops."""

from pathlib import Path

import pytest

from t2v.curation.text.clean import defects, unrepeated

DEFECTS = ("scene transition", "frame by frame", "repetition")


def _planted() -> dict[str, list[str]]:
    text = Path(__file__).with_name("planted_captions.txt").read_text()
    sections = [section.splitlines() for section in text.split("\n\n")]
    return {name.strip("[]"): captions for name, *captions in sections}


PLANTED = _planted()


def amid_plain(captions: list[str]) -> list[str]:
    """Each caption alone, and between two plain ones."""
    plain = PLANTED["plain"]
    count = len(plain)
    return captions + [
        f"{plain[i % count]} {caption} {plain[(i + 5) % count]}"
        for i, caption in enumerate(captions)
    ]


def found(defect: str, captions: list[str]) -> list[str]:
    return [caption for caption in captions if defect in defects(caption)]


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_found_with_precision_and_recall_of_nine_in_ten(defect):
    bad = amid_plain(PLANTED[defect])
    others = [each for other in DEFECTS if other != defect for each in PLANTED[other]]
    good = amid_plain(PLANTED[f"not {defect}"] + PLANTED["lookalikes"]) + PLANTED["plain"] + others
    hits, false = found(defect, bad), found(defect, good)
    missed = set(bad) - set(hits)
    assert len(hits) >= 0.9 * len(bad), missed
    assert len(hits) >= 0.9 * (len(hits) + len(false)), false


@pytest.mark.parametrize("defect", DEFECTS)
def test_few_of_the_lookalikes_of_a_defect_are_taken_for_it(defect):
    lookalikes = PLANTED[f"not {defect}"]
    assert len(found(defect, lookalikes)) <= 0.1 * len(lookalikes)


@pytest.mark.parametrize("defect", DEFECTS)
def test_captions_written_after_the_rules_are_sorted_as_well(defect):
    bad = PLANTED[f"unseen {defect}"]
    others = [each for other in DEFECTS if other != defect for each in PLANTED[f"unseen {other}"]]
    hits, false = found(defect, bad), found(defect, others + PLANTED["unseen lookalikes"])
    assert len(hits) >= 0.9 * len(bad), set(bad) - set(hits)
    assert len(hits) >= 0.9 * (len(hits) + len(false)), false


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        ("The sky is blue. The sea is calm. The sky is blue.", "The sky is blue. The sea is calm."),
        ("A dog on the beach the beach the beach the beach.", "A dog on the beach."),
        ("A man, a tall man, a tall man, a tall man!", "A man, a tall man!"),
        ("It is is is is cold.", "It is cold."),
        ("  A   plain\ncaption. ", "A plain caption."),
        ("", ""),
    ],
)
def test_what_is_repeated_is_said_once(loop, said):
    assert unrepeated(loop) == said
    assert unrepeated(said) == said


def test_a_very_long_caption_is_checked_in_time():
    assert "repetition" in defects("the video begins with then " * 2000)
