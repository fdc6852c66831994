"""Story files: one message for each mistake, with the file, the scene and what it may hold."""

from pathlib import Path

import pytest

from t2v.config.load import load_config
from t2v.config.story import SceneConfig, StoryConfig
from t2v.errors import UserError

GOOD = "{prompt: a red ball, seconds: 1}"


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        ({"prompt": "a red ball", "seconds": 1e12}, "at most 86,400 seconds"),
        ({"prompt": "a red ball", "seconds": float("nan")}, "more than 0"),
        ({"prompt": " ", "seconds": 1.0}, "it is empty"),
    ],
)
def test_a_scene_that_is_none_is_one_message(scene, words):
    with pytest.raises(UserError, match=words):
        SceneConfig(**scene)


def read(text: str) -> StoryConfig:
    Path("story.yaml").write_text(text)
    return load_config(StoryConfig, Path("story.yaml"), [], option="--story")


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        (
            "{prompt: a, seconds: 1, colour: red}",
            "there is no setting 'colour'. Allowed: prompt, seconds, start, image.",
        ),
        ("{prompt: a}", "seconds required and not given. Add `seconds: ...` to it."),
        ("{seconds: 1}", "prompt required and not given. Add `prompt: ...` to it."),
        ("{prompt: a, seconds: x}", "seconds: x: it takes a number."),
        ("{prompt: a, seconds: 1, start: go}", "start: go: it takes cut | continue or null."),
        ("{prompt: null, seconds: 1}", "prompt: null: it takes text."),
        ("a", "a is no group of settings. Give {prompt, seconds, start, image}."),
        (
            "{prompt: a, seconds: 0}",
            "seconds=0.0: a scene lasts more than 0 and at most 86,400 seconds, a day.",
        ),
        ('{prompt: "", seconds: 1}', "prompt: it is empty. Say what the scene should show."),
    ],
)
def test_a_mistake_in_a_scene_names_it_and_the_file(tmp_path, monkeypatch, scene, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        read(f"scenes: [{GOOD}, {scene}, {GOOD}]")
    assert str(error.value) == f"scene 2 of story.yaml: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "story.yaml: scenes: required and not given. Add `scenes: ...` to it."),
        ("scenes: []", "story.yaml: scenes: there is none."),
        ("scenes: 3", "story.yaml, scenes: 3: scenes takes [{prompt, seconds, start, image}, ...]"),
        (f"scene: [{GOOD}]", "there is no setting 'scene'. Did you mean scenes?"),
        (
            f"{{scenes: [{GOOD}], windows: {{overlap: -1}}}}",
            "story.yaml: windows.overlap=-1: it must be 0 or more.",
        ),
        (
            "scenes: [{prompt: a, seconds: 1, start: continue}]",
            "story.yaml: scenes: the first one says start: continue",
        ),
    ],
)
def test_a_mistake_in_a_story_names_the_file(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        read(text)
    assert message in str(error.value) and "Config" not in str(error.value)


def test_a_prompt_is_what_was_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    story = read('scenes: [{prompt: yes, seconds: 1}, {prompt: "???", seconds: 2}]')
    assert [scene.prompt for scene in story.scenes] == ["yes", "???"]
