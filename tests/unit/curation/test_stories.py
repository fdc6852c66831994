"""Stories of footage: which clips follow each other, and the frames of their scenes."""

import json

import pytest

from t2v.curation.stories import find_stories
from t2v.errors import UserError
from t2v.io.manifest import Clip, read_manifest, write_manifest


def clip(start, end, path="/a.mp4", **more):
    count = round((end - start) * 8)
    given = {"caption": f"from {start}", "fps": 8.0, "num_frames": count} | more
    return Clip(path=path, start=start, end=end, **given)


def test_clips_without_a_gap_are_the_scenes_of_one_story(tmp_path):
    clips = [clip(0, 2), clip(2, 3.5), clip(3.5, 5), clip(5, 6), clip(0, 2, "/b.mp4")]
    (first, second) = find_stories(clips, 2)
    assert (first.start, first.end, first.num_frames) == (0, 3.5, 28)
    assert first.caption == "from 0 from 2"
    assert first.extra["scenes"] == [
        {"start": 0, "end": 16, "caption": "from 0"},
        {"start": 16, "end": 28, "caption": "from 2"},
    ]
    assert (second.start, second.end) == (3.5, 6)
    write_manifest(tmp_path / "stories.jsonl", [first, second])
    assert read_manifest(tmp_path / "stories.jsonl") == [first, second]


@pytest.mark.parametrize(
    "second",
    [
        clip(2.25, 4),
        clip(2, 4, "/b.mp4"),
        clip(2, 4, caption=""),
        clip(2, 4, dropped="motion"),
        clip(2, 4, extra={"crop": [0, 0, 8, 8]}),
    ],
    ids=["a gap", "another file", "no caption", "dropped", "cropped"],
)
def test_other_clips_end_a_story(second):
    assert find_stories([clip(0, 2), second], 2) == []
    after = clip(4.5, 5.5), clip(5.5, 6)
    assert [each.start for each in find_stories([clip(0, 2), second, *after], 2)] == [4.5]


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        ("a scene", "scenes='a scene' should be a list of scenes"),
        ([{"start": 0, "end": 4}], "should be a list of scenes"),
        ([{"start": 0.5, "end": 4, "caption": "a"}], "should be a list of scenes"),
        ([{"start": 4, "end": 4, "caption": "a"}], "a scene from frame 4 to 4 behind frame 0"),
        (
            [{"start": 0, "end": 4, "caption": "a"}, {"start": 3, "end": 6, "caption": "b"}],
            "a scene from frame 3 to 6 behind frame 4",
        ),
        ([{"start": 0, "end": 9, "caption": "a"}], "scenes end at frame 9, and the clip has 8"),
    ],
)
def test_scenes_of_a_manifest_are_checked(tmp_path, scenes, message):
    row = {"path": "a.mp4", "num_frames": 8, "scenes": scenes}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"manifest\.jsonl line 1") as error:
        read_manifest(tmp_path / "manifest.jsonl")
    assert message in str(error.value)
