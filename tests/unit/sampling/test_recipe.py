"""Recipes and kept latents: what is written reads back, and what is wrong is named."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.pipelines.generator import Start
from t2v.sampling.kept import read_latents, write_latents
from t2v.sampling.recipe import (
    Choice,
    Recipe,
    read,
    read_json,
    refuse_fetching,
)
from t2v.sampling.versions import versions

RECIPE = Recipe(
    prompt='a "red" ball = ${x}',
    settings=SampleConfig(height=64, width=48, fps=7.5, negative_prompt="no", gif=True),
    weights="0" * 64,
    device="cpu",
    versions=versions(),
)


def test_a_recipe_survives_json():
    assert read(json.loads(json.dumps(RECIPE.to_json())), Path("a.mp4")) == RECIPE


def test_overrides_go_over_a_recipe():
    assert read(RECIPE.to_json(), Path("a.mp4"), ["seed=4", "height=null"]).settings.seed == 4


@pytest.mark.parametrize("values", [[], {}, None, {"settings": {}}, {"settings": 3}, "text"])
def test_what_is_no_recipe_is_named(values):
    with pytest.raises(UserError, match=r"a\.mp4: holds no recipe"):
        read(values, Path("a.mp4"))


def test_a_recipe_with_a_setting_of_a_later_version_is_named():
    values = RECIPE.to_json()
    values["settings"]["colour"] = "red"
    with pytest.raises(UserError, match="no setting 'colour'"):
        read(values, Path("a.mp4"))


def test_latents_come_back_with_their_steps_and_recipe(tmp_path):
    latents = torch.randn(1, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "a.latents.safetensors"
    state = {"scheduler.last": torch.ones(2), "random.0": torch.ones(3, dtype=torch.uint8)}
    write_latents(path, Start(latents, 3, state), RECIPE.to_json())
    back, values = read_latents(path)
    assert torch.equal(back.latents, latents) and back.step == 3
    assert {name: each.tolist() for name, each in back.state.items()} == {
        name: each.tolist() for name, each in state.items()
    }
    assert read(values, path) == RECIPE
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [None, b"", b"nonsense" * 9])
def test_broken_latents_are_named(content, tmp_path):
    path = tmp_path / "a.latents.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"holds no latents|cannot be read"):
        read_latents(path)


def test_latents_without_room_are_a_users_error(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_latents(tmp_path / "nowhere" / "a.safetensors", Start(torch.zeros(1), 0), {})


def test_a_missing_json_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.json: there is no such file"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("settings", "renamed", "words"),
    [
        ({"model": "org/large"}, set(), "Give it with --model"),
        ({"model": "/nowhere"}, set(), "Give it with --model"),
        ({"model": "t2v-tiny"}, set(), None),
        ({"model": "org/large"}, {"model"}, None),
        ({"attention": "flash_hub"}, set(), "Give it with --attention"),
        ({"attention": "flash_hub"}, {"attention"}, None),
        ({"lora": ("nowhere.safetensors",)}, set(), "there is no such file"),
    ],
)
def test_a_recipe_fetches_nothing_that_was_not_asked_for(settings, renamed, words):
    recipe = replace(RECIPE, settings=replace(RECIPE.settings, **settings))
    if words is None:
        refuse_fetching(recipe, Path("a.mp4"), renamed)
        return
    with pytest.raises(UserError, match=words):
        refuse_fetching(recipe, Path("a.mp4"), renamed)


def test_a_recipe_fetches_no_scorer_and_takes_no_lora_of_another_hash(tmp_path):
    choice = Choice(best_of=2, first_seed=0, scorer="org/clip", name="clip", keep_draws=False)
    with pytest.raises(UserError, match=r"names scorer=org/clip.*Give it with scorer="):
        refuse_fetching(replace(RECIPE, choice=choice), Path("a.mp4"), set())
    (tmp_path / "l.safetensors").write_bytes(b"x")
    settings = replace(RECIPE.settings, lora=(str(tmp_path / "l.safetensors"),))
    with pytest.raises(UserError, match="not the file it was"):
        refuse_fetching(replace(RECIPE, settings=settings, lora=("0" * 64,)), Path("a.mp4"), set())
    digest = hashlib.sha256(b"x").hexdigest()
    refuse_fetching(replace(RECIPE, settings=settings, lora=(digest,)), Path("a.mp4"), set())
