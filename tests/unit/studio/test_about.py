"""Recipes as people read them."""

import json

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from t2v.queue.job import Job
from t2v.serve.models import Model
from t2v.studio.about import rate_of, recipe_of, rows_of, scenes_in

MODELS = {"Wan": Model(name="Wan", setting="/home/ann/models/Wan")}
SETTINGS = {
    "model": "/home/ann/models/Wan",
    "output": "/home/ann/queue/videos/one.mp4",
    "lora": ["/home/ann/loras/ink.safetensors"],
    "lora_scale": 0.5,
    "image": f"/home/ann/queue/uploads/{'5e' * 16}.png",
    "negative_prompt": "/blurry/",
    "num_frames": 17,
    "fps": 8.0,
    "seed": 3,
    "guidance_scale": 1.5,
}
VIDEO = {"size": "64x48", "seconds": "2.125"}


@pytest.fixture
def recipe(tmp_path):
    values = {
        "prompt": "/home in the hills",
        "settings": SETTINGS,
        "inputs": {"/home/ann/seen.png": "12ab", "C:\\ann\\seen.png": "34cd"},
        "story": {"scenes": [{"prompt": "/x", "seconds": 1, "image": "s3://ann/seen.png"}]},
    }
    (tmp_path / "one.json").write_text(json.dumps(values))
    job = Job(
        id="0" * 32, state="done", place=1, created=0, files=tmp_path, output=tmp_path / "one.mp4"
    )
    return recipe_of(job, MODELS)


def test_a_recipe_tells_no_path_of_this_machine(recipe):
    text = json.dumps(recipe)
    assert "ann" not in text
    assert recipe["settings"]["model"] == "Wan"
    assert recipe["settings"]["lora"] == ["ink.safetensors"]
    assert recipe["story"]["scenes"][0]["image"] == "seen.png"


def test_what_people_wrote_stays_though_it_looks_like_a_path(recipe):
    assert recipe["prompt"] == "/home in the hills"
    assert recipe["settings"]["negative_prompt"] == "/blurry/"
    assert recipe["story"]["scenes"][0]["prompt"] == "/x"


def test_a_table_tells_settings_in_words_and_leaves_out_the_usual(recipe):
    rows = rows_of(recipe, VIDEO)
    assert rows["Length"] == "2.125 s, 17 frames at 8 a second"
    assert (rows["Size"], rows["Model"], rows["Seed"]) == ("64x48", "Wan", "3")
    assert (rows["LoRA"], rows["Strength of LoRA"]) == ("ink.safetensors", "0.5")
    assert rows["Begins with"] == "5e5e5e5e"  # of a name that says nothing
    assert "Best of" not in rows
    assert rate_of(recipe) == 8


def test_scenes_begin_at_the_frames_nearest_to_their_seconds():
    scenes = [{"prompt": str(number), "seconds": 1.1} for number in range(3)]
    found = scenes_in({"settings": {"fps": 8}, "story": {"scenes": scenes}})
    assert [each["begins"] for each in found] == [0, 9 / 8, 18 / 8]


def test_a_recipe_from_anywhere_is_told_whatever_it_holds(tmp_path):
    deep = "[" * 900 + "]" * 900
    (tmp_path / "one.json").write_text(f'{{"settings": {{"lora": {deep}, "seed": {{}}}}}}')
    job = Job(
        id="0" * 32, state="done", place=1, created=0, files=tmp_path, output=tmp_path / "one.mp4"
    )
    found = recipe_of(job, MODELS)
    assert "nested too deeply" in json.dumps(found)
    assert rows_of(found, VIDEO)["Seed"] == "{}"


ENDLESS = {"scenes": [{"prompt": "a", "seconds": 1e400}]}


@pytest.mark.parametrize(
    "story", [None, 3, {"scenes": 3}, {"scenes": [3]}, {"scenes": [{}]}, ENDLESS]
)
def test_a_damaged_story_has_no_scenes(story):
    assert scenes_in({"story": story, "settings": []}) == []
