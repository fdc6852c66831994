"""The journal of a review: what survives undo, a restart, a kill, and two who decide at once."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from t2v.curation.review.journal import Act, Journal, Outdated
from t2v.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "manifest.review.jsonl"


def stands(journal):
    return {key: (journal.verdict(key), journal.captions(key)) for key in sorted(journal.touched())}


def test_every_act_can_be_undone_after_a_restart_too(path):
    journal = Journal(path)
    acts = [
        Act("keep", ("a", "b")),
        Act("caption", ("a",), ("a ball", "a red ball")),
        Act("drop", ("a",)),
        Act("caption", ("a",), ("a cube",)),
    ]
    seen = [stands(journal)]
    for act in acts:
        assert journal.add(act) == set(act.clips)
        seen.append(stands(journal))
    assert seen[-1] == {"a": ("drop", ("a cube",)), "b": ("keep", ())}
    for before in reversed(seen[:-1]):
        journal = Journal(path)
        journal.catch_up()
        journal.add(None, journal.count)
        assert stands(journal) == before
    with pytest.raises(UserError, match="nothing to undo"):
        journal.add(None)


def test_a_line_torn_anywhere_does_not_count_and_spoils_nothing(path):
    journal = Journal(path)
    journal.add(Act("keep", ("a",)))
    first = path.stat().st_size
    journal.add(Act("caption", ("a",), ("ünï",)))
    whole = path.read_bytes()
    for length in (*range(first, len(whole), 7), len(whole) - 1):
        path.write_bytes(whole[:length])
        torn = Journal(path)
        torn.catch_up()
        assert stands(torn) == {"a": ("keep", ())}
    torn = Journal(path)
    torn.add(Act("drop", ("b",)))
    again = Journal(path)
    again.catch_up()
    assert again.verdict("b") == "drop"
    assert again.acts == torn.acts


def test_two_who_decide_at_once_lose_nothing_and_see_each_other(path):
    journals = [Journal(path) for _ in range(4)]

    def decide(number):
        for clip in range(10):
            journals[number].add(Act("keep", (f"{number}-{clip}",)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decide, range(4)))
    for journal in journals:
        journal.catch_up()
        assert len(journal.touched()) == journal.count == 40
        assert journal.acts == journals[0].acts


def test_undo_takes_back_no_act_that_was_not_seen(path):
    mine, other = Journal(path), Journal(path)
    mine.add(Act("drop", ("a",)))
    other.add(Act("drop", ("b",)))
    with pytest.raises(Outdated, match="Somebody else"):
        mine.add(None, 1)
    assert mine.add(None, 2) == {"b"}
    assert other.catch_up() == {"b"}
    assert stands(other) == stands(mine) == {"a": ("drop", ())}


def test_a_journal_that_vanishes_or_is_another_is_read_anew(path, tmp_path):
    journal, other = Journal(path), Journal(tmp_path / "other")
    journal.add(Act("drop", ("a",)))
    other.add(Act("keep", ("b",)))
    other.path.replace(path)
    assert journal.catch_up() == {"a", "b"}
    assert stands(journal) == {"b": ("keep", ())}
    path.unlink()
    assert journal.catch_up() == {"b"}
    assert stands(journal) == {}


@pytest.mark.parametrize(
    "row",
    [
        {"act": "keep", "clips": "a"},
        {"act": "keep", "clips": []},
        {"act": ["keep"], "clips": ["a"]},
        {"act": "keep", "clips": [1]},
        {"act": "erase", "clips": ["a"]},
        {"act": "caption", "clips": ["a"]},
        {"act": "caption", "clips": ["a"], "captions": ["\ud800"]},
        {"act": "keep", "clips": ["a"], "captions": ["a ball"]},
        [1],
        "x",
    ],
)
def test_a_row_of_anything_else_is_left_out(path, row, caplog):
    path.write_text(json.dumps(row) + "\n" + json.dumps({"act": "drop", "clips": ["b"]}) + "\n")
    journal = Journal(path)
    assert journal.catch_up() == {"b"}
    assert "damaged" in caplog.text


def test_no_link_is_followed_no_pipe_waited_for_and_no_later_version_guessed_at(path, tmp_path):
    import os

    owned = tmp_path / "owned"
    owned.write_text("mine\n")
    path.symlink_to(owned)
    with pytest.raises(UserError, match="is a link"):
        Journal(path).add(Act("keep", ("a",)))
    assert owned.read_text() == "mine\n"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="pipe or a device"):
        Journal(path).catch_up()
    path.unlink()
    path.write_text('{"journal": "review", "version": 2}\n')
    with pytest.raises(UserError, match="Update t2v"):
        Journal(path).catch_up()


def test_a_place_that_cannot_be_written_is_one_message(tmp_path):
    with pytest.raises(UserError, match="the decision is not kept"):
        Journal(tmp_path / "gone" / "manifest.review.jsonl").add(Act("keep", ("a",)))
