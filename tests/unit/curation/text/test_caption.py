"""Authors are heard and kept with what they said; one caption is taken, or the clip dropped."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from t2v.config.captions import CaptionConfig
from t2v.curation.text.caption import Stills, caption, tidy
from t2v.errors import UserError
from t2v.io.manifest import Clip
from t2v.io.video import write_video

DOG = "A brown dog runs across a wet meadow."


@pytest.fixture
def clip(tmp_path) -> Clip:
    """A second that grows brighter, 48 x 32, in a folder with a name."""
    levels = np.linspace(20, 220, 16).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (16, 32, 48, 3))
    path = tmp_path / "Wet meadows" / "dog_runs-02.mp4"
    path.parent.mkdir()
    write_video(path, frames, 16)
    return Clip(path=str(path), start=0.0, end=1.0, width=48, height=32)


def say(clip: Clip, text: str) -> None:
    Path(clip.path).with_suffix(".txt").write_text(text, encoding="utf-8")


def candidates_of(clip: Clip) -> list[tuple[str, str, str]]:
    rows = clip.extra["candidates"]
    return [(row["author"], row.get("text", ""), row.get("verdict", "")) for row in rows]


def test_every_author_is_heard_and_kept_and_the_most_trusted_of_equals_taken(clip):
    say(clip, f"{DOG}\nThe dog is wet.\n\n")
    listed = replace(clip, caption="A dog", captions=("A dog",))
    config = CaptionConfig(authors=("sidecar", "table", "filename", "folder"), rule="of {name}!")
    done = caption(listed, config)
    assert candidates_of(done) == [
        ("sidecar", DOG, ""),
        ("sidecar", "The dog is wet.", ""),
        ("sidecar", "", "says nothing"),
        ("table", "A dog", ""),
        ("filename", "of dog runs 02!", "a name counts where nobody else speaks"),
        ("folder", "of Wet meadows!", "a name counts where nobody else speaks"),
    ]
    assert done.extra["caption_author"] == "sidecar"
    assert set(done.captions) == {DOG, "The dog is wet."}
    assert done.caption == done.captions[0]
    assert done.scores["caption_words"] in (4, 7)


def test_without_anyone_who_saw_it_the_name_is_the_caption(clip):
    done = caption(clip, CaptionConfig())
    assert (done.caption, done.extra["caption_author"]) == ("dog runs 02", "filename")
    assert "caption_agreement" not in done.scores


def test_footage_whose_caption_is_bad_does_not_get_its_name_instead(clip):
    say(clip, "The scene then cuts to a kitchen.")
    done = caption(clip, CaptionConfig())
    assert (done.dropped, done.caption) == ("caption", "")
    assert "filename: a name counts where nobody else speaks" in done.reason


def test_a_defect_rules_a_candidate_out_and_a_loop_is_said_once(clip):
    say(clip, f"{DOG} The scene then cuts to a kitchen.\n{DOG} {DOG}\nFrame 1: a dog. Frame 2: it.")
    done = caption(clip, CaptionConfig(authors=("sidecar",)))
    assert candidates_of(done) == [
        ("sidecar", f"{DOG} The scene then cuts to a kitchen.", "scene transition"),
        ("sidecar", DOG, ""),
        ("sidecar", "Frame 1: a dog. Frame 2: it.", "frame by frame"),
    ]
    assert done.captions == (DOG,)


def test_a_clip_nobody_can_caption_is_dropped_and_says_who_said_what(clip):
    say(clip, "The video fades to black.")
    done = caption(clip, CaptionConfig(authors=("sidecar", "table")))
    assert (done.dropped, done.caption) == ("caption", "")
    assert done.reason == "no caption (sidecar: scene transition; table: nothing)"


def test_merging_adds_the_other_authors_sentences(clip):
    say(clip, "A dog runs")
    listed = replace(clip, captions=("A dog runs. The dog wears a red collar with a bell.",))
    done = caption(listed, CaptionConfig(authors=("sidecar", "table"), merge=True))
    assert done.caption == "A dog runs. The dog wears a red collar with a bell."


def test_the_caption_that_reads_as_prompts_do_is_taken_and_its_distance_kept(clip, tmp_path):
    say(clip, f"{DOG}\ndog, wet, meadow, running")
    prompts = tmp_path / "prompts.txt"
    seen = [(animal, act, place) for animal in ("cat", "cow", "fox", "hen", "owl")
            for act in ("sleeping", "eating") for place in ("field", "barn")]  # fmt: skip
    prompts.write_text("\n".join(f"{a}, old, {place}, {act}" for a, act, place in seen))
    config = CaptionConfig(authors=("sidecar",), style=str(prompts))
    done = caption(clip, config)
    assert done.caption == "dog, wet, meadow, running"
    of_each = [row["style"] for row in done.extra["candidates"]]
    assert done.scores["caption_style"] == of_each[1] < of_each[0]
    prompts.write_text("\n".join(f"An old {a} is {act} in a {place}." for a, act, place in seen))
    os.utime(prompts, ns=(1, 1))
    assert caption(clip, config).caption == DOG


def test_tokens_are_counted_and_what_does_not_fit_is_not_taken(clip, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "pipeline" / "tokenizer")
    config = CaptionConfig(tokenizer=str(tmp_path / "pipeline"), max_tokens=5)
    say(clip, "a red ball rolls on the grass\na red ball rolls")
    done = caption(clip, config)
    assert candidates_of(done)[0][2] == "8 tokens, 5 fit"
    assert (done.caption, done.scores["caption_tokens"]) == ("a red ball rolls", 5)


def test_control_characters_and_line_marks_do_not_reach_a_caption(clip):
    assert tidy("a\u202e dog\x00\x1b[31m\u2028runs\t fast ") == "a dog[31m runs fast"
    say(clip, "<script>alert('x')</script> \u2066a dog\x07")
    assert caption(clip, CaptionConfig()).caption == "<script>alert('x')</script> a dog"


def test_endless_text_is_no_caption(clip):
    say(clip, "word " * 2000)
    [(_, text, verdict), *_] = candidates_of(caption(clip, CaptionConfig()))
    assert (len(text), verdict) == (5000, "9999 characters are no caption (5000 at most)")


def test_frames_are_spread_over_the_span_scaled_and_cropped(clip):
    frames = Stills(replace(clip, start=0.25, end=0.75), 4, max_side=24).frames
    assert [frame.shape for frame in frames] == [(16, 24, 3)] * 4
    levels = np.array([frame.mean() for frame in frames])
    np.testing.assert_allclose(np.diff(levels), 200 / 15 * 2, atol=3)
    cropped = replace(clip, extra={"crop": [8, 0, 32, 32]})
    assert Stills(cropped, 1, max_side=512).frames[0].shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"authors": ("someone",)}, "'someone' is not an author"),
        ({"authors": ("http://host/v1",)}, "is not an author"),
        ({"authors": ()}, "no author is left"),
        ({"rule": "a video"}, r"must contain \{name\}"),
        ({"max_tokens": 20}, "needs the tokenizer"),
        ({"timeout": 0.0}, r"timeout=0\.0"),
        ({"style_within": 0.1}, r"style_within=0\.1 caption\.style=: a difference of scores"),
        ({"style": "x.txt", "style_within": -1.0}, r"style_within=-1 caption\.style=x\.txt"),
    ],
)
def test_settings_that_cannot_work_say_what_can(settings, message):
    with pytest.raises(UserError, match=message):
        CaptionConfig(**settings)
