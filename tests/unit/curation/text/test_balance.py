"""Crowded groups give way, evenly and always the same, and every dropped clip says why."""

from collections import Counter

import pytest

from t2v.config.captions import BalanceConfig
from t2v.curation.text.balance import balance, entropies, groups
from t2v.errors import UserError
from t2v.io.manifest import Clip


def crowd() -> list[Clip]:
    """60 clips: topics 40, 15, 5; sources 45, 15; durations 1, 3 and 9 s by turns."""
    topics = ["dogs"] * 40 + ["cats"] * 15 + ["frogs"] * 5
    return [
        Clip(
            path=f"/{i}.mp4",
            end=(1.0, 3.0, 9.0)[i % 3],
            source="one" if i % 4 else "two",
            sha256=f"{i:x}",
            extra={"topic": topic},
        )
        for i, topic in enumerate(topics)
    ]


def kept(clips: list[Clip]) -> list[Clip]:
    return [clip for clip in clips if not clip.dropped]


def test_every_axis_grows_more_even_and_the_target_is_met(tmp_path):
    config = BalanceConfig(keep=0.4)
    stay = kept(balance(crowd(), config, tmp_path))
    assert len(stay) == 24
    before, after = entropies(crowd(), config), entropies(stay, config)
    for axis in ("topic", "source"):
        assert after[axis][0] > before[axis][0] + 0.1
    assert after["duration"][0] > 0.97 * after["duration"][1]
    assert Counter(clip.extra["topic"] for clip in stay)["frogs"] == 5
    assert Counter(clip.source for clip in stay)["two"] >= 10


def test_dropped_clips_say_which_group_was_crowded(tmp_path):
    dropped = [clip for clip in balance(crowd(), BalanceConfig(keep=0.4), tmp_path) if clip.dropped]
    assert {clip.dropped for clip in dropped} == {"balance"}
    dogs = next(clip for clip in dropped if clip.extra["topic"] == "dogs" and clip.source == "two")
    assert dogs.reason.startswith("topic 'dogs' has 40 of 60 clips; ")
    assert dogs.reason.endswith("stay to keep 24 evenly")


def test_the_choice_does_not_depend_on_the_order(tmp_path):
    config = BalanceConfig(keep=0.5, by=("topic", "duration"))
    forth = {clip.path for clip in kept(balance(crowd(), config, tmp_path))}
    back = {clip.path for clip in kept(balance(crowd()[::-1], config, tmp_path))}
    assert forth == back


def test_by_default_all_stay_and_only_the_entropies_are_reported(tmp_path):
    assert balance(crowd(), BalanceConfig(), tmp_path) == crowd()
    assert balance([], BalanceConfig(keep=0.5), tmp_path) == []
    told = entropies(crowd(), BalanceConfig(by=("source",)))
    assert told == {"source": (pytest.approx(0.8113, abs=1e-4), 1.0)}


def test_durations_fall_into_groups_at_their_edges():
    config = BalanceConfig(by=("duration",))
    ends = (0.5, 2.0, 3.9, 8.0, None)
    assert [groups(Clip(path="/x", end=end), config)[0] for end in ends] == [
        "0 to 2 s",
        "2 to 4 s",
        "2 to 4 s",
        "8 s and more",
        "unknown",
    ]


@pytest.mark.parametrize(
    "wrong", [{"keep": 0.0}, {"keep": 1.5}, {"by": ("colour",)}, {"durations": (4.0, 2.0)}]
)
def test_a_share_axis_or_edge_that_cannot_be_is_refused(wrong):
    with pytest.raises(UserError, match=r"balance\."):
        BalanceConfig(**wrong)
