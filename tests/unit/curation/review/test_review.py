"""The model of a review: what is decided, what is written, and what training reads of it."""

import json

import numpy as np
import pytest

from t2v.config.data import ClipsConfig
from t2v.curation.review.review import Review
from t2v.data.dataset import load_latents
from t2v.errors import UserError
from t2v.io.manifest import Clip, read_manifest, write_manifest

SCORES = {"motion": 1.0, "caption_words": 2.0}


@pytest.fixture
def folder(tmp_path):
    """Six clips: four kept, one dropped, one without a caption; clip 2 has candidates."""
    clips = [
        Clip(
            path=str(tmp_path / f"{number}.mp4"),
            end=1.0 + number,
            caption=f"clip {number}",
            captions=(f"clip {number}", "another"),
            scores={"motion": float(-number), "caption_words": 2.0},
            license="CC0-1.0",
        )
        for number in range(6)
    ]
    clips[2].extra["candidates"] = [{"author": "sidecar", "text": "clip 2"}]
    clips[3].scores.clear()
    clips[4] = clips[4].drop("motion", "stands still")
    clips[5] = Clip(path=str(tmp_path / "5.mp4"))
    write_manifest(tmp_path / "manifest.jsonl", clips)
    (tmp_path / "DATA.md").write_text("# Data\n\nas curated\n")
    return tmp_path


def keys_of(review):
    return list(review.keys)


def test_training_reads_exactly_what_was_decided(folder):
    before, original = read_manifest(folder), (folder / "manifest.jsonl").read_bytes()
    review = Review(folder)
    key = keys_of(review)
    review.decide("drop", [key[0]])
    review.decide("drop", [key[1]])
    review.undo()
    review.write_captions(key[2], " a red\tball \r\n\r\nit rolls\n")
    review.decide("keep", [key[4], key[5]])
    written = review.write()
    after = read_manifest(written.path)
    assert [clip.dropped for clip in after] == ["review", "", "", "", "", ""]
    assert after[0].reason == "dropped by hand"
    assert after[2].texts() == ("a red ball", "it rolls")
    assert after[2].caption == "a red ball"
    assert after[2].scores == {"motion": -2.0}  # nothing is known of the new caption
    assert after[2].extra["caption_author"] == "review"
    assert [each["author"] for each in after[2].extra["candidates"]] == [
        *("sidecar", "review", "review")
    ]
    assert after[2].extra["review"] == {"captions": ["clip 2", "another"]}
    assert after[4].extra["review"] == {
        "verdict": "keep",
        "dropped": "motion",
        "reason": "stands still",
    }
    assert (after[1], after[3]) == (before[1], before[3])
    assert (written.kept, written.dropped, written.without_caption) == (5, 1, 1)
    assert (folder / "manifest.jsonl").read_bytes() == original
    card = written.card.read_text()
    assert "5 clips, 0.2 minutes, kept of 6" in card
    assert "4 clips were decided on, 1 dropped, 1 brought back, 1 captioned anew" in card
    assert card.endswith("as curated\n")


def test_equal_decisions_give_equal_bytes_whoever_opens_the_review(folder):
    review = Review(folder)
    review.decide("drop", [keys_of(review)[3]])
    first = review.write().path.read_bytes()
    again = Review(folder / "manifest.jsonl").write().path
    assert again.read_bytes() == first
    assert again == folder / "manifest.reviewed.jsonl"


def test_decisions_stay_with_their_clips_when_the_manifest_is_made_anew(folder):
    review = Review(folder)
    key = keys_of(review)
    review.decide("drop", [key[1]])
    review.decide("keep", [key[3]])
    clips = read_manifest(folder)
    write_manifest(folder / "manifest.jsonl", [clips[0], clips[5], clips[1]])
    assert [each.now.dropped for each in review.page("all", "", 0, 9).clips] == ["", "", "review"]
    assert review.strays() == 1
    assert Review(folder).counts() == review.counts()


def test_clips_of_one_file_and_equal_rows_are_decided_apart(tmp_path):
    spans = [(0.0, 1.0), (1.0, 2.0), (0.0, 1.0)]
    clips = [Clip(path=str(tmp_path / "a.mp4"), start=low, end=high) for low, high in spans]
    write_manifest(tmp_path / "manifest.jsonl", clips)
    review = Review(tmp_path)
    review.decide("drop", [keys_of(review)[2]])
    shown = review.page("all", "", 0, 9).clips
    assert [each.verdict for each in shown] == [None, None, "drop"]


def test_the_manifest_may_move_with_its_clips(folder, tmp_path_factory):
    review = Review(folder)
    review.decide("drop", [keys_of(review)[1]])
    place = tmp_path_factory.mktemp("elsewhere") / "moved"
    folder.rename(place)
    assert Review(place).counts().decided == 1


@pytest.mark.parametrize(
    ("show", "numbers"),
    [
        ("all", [1, 2, 3, 4, 5, 6]),
        ("undecided", [2, 4, 5, 6]),
        ("kept", [2, 3, 4, 6]),
        ("dropped", [1, 5]),
        ("edited", [4]),
    ],
)
def test_each_filter_shows_its_clips_and_the_counts_agree(folder, show, numbers):
    review = Review(folder)
    key = keys_of(review)
    review.decide("drop", [key[0]])
    review.decide("keep", [key[2]])
    review.write_captions(key[3], "anew")
    page = review.page(show, "", 0, 10)
    assert [each.number for each in page.clips] == numbers
    assert getattr(review.counts(), show) == page.total == len(numbers)


def test_clips_are_ordered_by_a_score_and_those_without_it_come_last(folder):
    review = Review(folder)
    assert review.scores() == ["seconds", "caption_words", "motion"]

    def order(sort):
        return [each.number for each in review.page("all", sort, 0, 10).clips]

    assert order("motion") == [5, 3, 2, 1, 4, 6]
    assert order("-motion") == [1, 2, 3, 5, 4, 6]
    assert order("-seconds") == [5, 4, 3, 2, 1, 6]
    for wrong in ("sharpness", "--motion", "__class__"):
        with pytest.raises(UserError, match="give one of seconds, caption_words, motion"):
            order(wrong)
    with pytest.raises(UserError, match="all, undecided, kept"):
        review.page("every", "", 0, 10)


def test_no_clip_is_passed_over_when_those_of_a_page_are_decided(folder):
    """Undecided clips leave the list; the next page still begins behind the last one that was."""
    review, seen, start = Review(folder), [], 0
    while start is not None:
        page = review.page("undecided", "-motion", start, 2)
        seen += [each.number for each in page.clips]
        start = page.after
        review.decide("keep", [each.key for each in page.clips])
    assert sorted(seen) == [1, 2, 3, 4, 5, 6]


def test_pages_lead_forth_and_back(folder):
    review = Review(folder)
    first = review.page("all", "", 0, 4)
    second = review.page("all", "", first.after, 4)
    assert (first.before, second.after) == (None, None)
    assert [each.number for each in second.clips] == [5, 6]
    assert (second.first, second.total) == (5, 6)
    assert review.page("all", "", second.before, 4) == first
    assert review.page("all", "", 10**6, 4) == second
    assert review.page("edited", "", 0, 4).clips == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \r\n ", "is empty"),
        ("a\0b", "zero byte"),
        ("a\ud800b", "half of a character"),
        ("a" * 5001, "at most 50 of 5,000"),
        ("\n".join(map(str, range(51))), "51 captions"),
    ],
)
def test_a_caption_that_is_none_is_refused_and_nothing_is_written(folder, text, message):
    review = Review(folder)
    with pytest.raises(UserError, match=message):
        review.write_captions(keys_of(review)[0], text)
    assert review.journal.count == 0


def test_what_names_no_clip_is_refused(folder):
    review = Review(folder)
    for act in (lambda: review.decide("keep", ["x"]), lambda: review.write_captions("x", "y")):
        with pytest.raises(UserError, match="no such clip"):
            act()
    with pytest.raises(UserError, match="Name one"):
        review.decide("keep", [])
    assert not review.journal.path.exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": 3}, "should be text"),
        ({"path": "a.mp4", "scores": {"motion": "high"}}, "numbers by name"),
        ({"caption": "no file"}, "names no file"),
        ([], "a clip is a JSON object"),
    ],
)
def test_a_manifest_that_training_refuses_is_refused_alike(tmp_path, row, message):
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=message):
        Review(tmp_path)


def test_rows_of_anybody_are_reviewed_and_written_whatever_else_they_hold(tmp_path):
    odd = {
        "path": "../\ud800/x.mp4",
        "caption": "\ud800 <b>",
        "scores": {"<i>": 1e14},
        "candidates": {"a": 1},
        "cut_from": {"path": [1], "start": "x", "end": {}},
        "review": [1],
        "id": {"x": 1},
        "index": [2],
    }
    (tmp_path / "manifest.jsonl").write_text(json.dumps(odd) + "\n")
    review = Review(tmp_path)
    key = keys_of(review)[0]
    review.decide("drop", [key])
    review.write_captions(key, "plain")
    (clip,) = read_manifest(review.write().path)
    assert (clip.dropped, clip.texts()) == ("review", ("plain",))
    assert clip.extra["candidates"] == {"a": 1}


def test_a_folder_of_media_is_reviewed_as_training_reads_it(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_text(f"film {name}\n")
    review = Review(tmp_path)
    review.decide("drop", [keys_of(review)[0]])
    assert [c.dropped for c in read_manifest(review.write().path)] == ["review", ""]
    assert [clip.dropped for clip in read_manifest(tmp_path)] == ["", ""]


def test_a_manifest_of_many_clips_is_paged_without_a_look_at_all_of_them(tmp_path, monkeypatch):
    count = 3000
    clips = [Clip(path=f"{n}.mp4", scores={"motion": float(np.sin(n))}) for n in range(count)]
    write_manifest(tmp_path / "manifest.jsonl", clips)
    review = Review(tmp_path)
    review.page("undecided", "motion", 0, 24)
    decided = []
    whole = review._decided
    monkeypatch.setattr(review, "_decided", lambda place: decided.append(place) or whole(place))
    page = review.page("undecided", "motion", 1500, 24)
    review.decide("keep", [page.clips[0].key])
    review.counts()
    assert len(page.clips) == 24
    assert len(decided) < 30


def test_rendered_clips_are_dropped_and_captioned_as_any_other(clips, vae, tokenizer):
    review = Review(clips)
    key = keys_of(review)
    review.decide("drop", key[:5])
    review.write_captions(key[7], "a red ball")
    written = str(review.write().path)
    given = {"precision": "fp32", "max_length": 12, "batch_size": 2, "held_out": 2, "seed": 0}
    rows = load_latents(written, ClipsConfig(), vae, tokenizer, **given).rows
    assert len(rows) == 7
    assert rows[2]["captions"] == ("a red ball",)
