"""Story files, read and written for the page."""

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from t2v.config.story import read_story
from t2v.serve.errors import Refused
from t2v.studio.story import read_file, written

SCENES = [
    {"prompt": "a red ball: <b>bold</b>", "seconds": 2.0, "start": None},
    {"prompt": "yes", "seconds": 1.5, "start": "cut"},
]


def test_a_file_that_is_written_is_read_back_by_the_page_and_by_the_package(tmp_path):
    text = written(SCENES)
    assert read_file(text.encode()) == {"scenes": SCENES, "wrong": None}
    (tmp_path / "story.yaml").write_text(text)
    assert [scene.prompt for scene in read_story(tmp_path / "story.yaml").scenes] == [
        scene["prompt"] for scene in SCENES
    ]


@pytest.mark.parametrize(
    ("text", "scene", "words"),
    [
        ("scenes:\n- {prompt: a, seconds: 1}\n- {prompt: b, seconds: -1}", 1, "seconds=-1"),
        ("scenes:\n- {prompt: a, second: 1}", 0, "seconds"),
        ("scenes:\n- {prompt: a, seconds: 1, image: /etc/passwd}", 0, "another machine"),
        ("scenes:\n- {prompt: '${oc.env:HOME}', seconds: x}", 0, "takes a number"),
        ("scenes:\n- {prompt: a, seconds: 1}\nwindows: {overlap: 0}", None, "windows"),
        ("scenes: 3", None, "scenes"),
        ("- a", None, "name: value"),
        ("scenes: [", None, "YAML"),
        ("", None, "scenes"),
        ("a: &a [1]\nb: *a", None, "story.yaml"),
        (b"\xff\xfe\x00\xd8", None, "story.yaml"),
    ],
)
def test_a_file_with_a_mistake_says_what_is_wrong_and_in_which_scene(text, scene, words):
    found = read_file(text if isinstance(text, bytes) else text.encode())
    assert found["wrong"]["scene"] == scene
    assert words in found["wrong"]["message"]
    assert "/tmp" not in found["wrong"]["message"]


def test_scenes_of_a_file_with_a_mistake_are_shown_as_they_were_written():
    found = read_file(b"scenes:\n- {prompt: '${HOME}', seconds: 1e3s}\n- 3")
    assert found["scenes"][0] == {"prompt": "${HOME}", "seconds": "1e3s", "start": ""}
    assert found["scenes"][1] == {"prompt": "", "seconds": "", "start": ""}


@pytest.mark.parametrize(
    "scenes",
    [None, 3, [], [3], [{"prompt": "a"}], [{"prompt": "a", "seconds": 1, "image": "/a.png"}]],
)
def test_what_is_no_story_is_not_written(scenes):
    with pytest.raises(Refused) as refused:
        written(scenes)
    assert refused.value.status == 400
