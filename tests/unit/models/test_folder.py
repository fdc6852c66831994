"""Pipeline folders: found by name, distinguished by their weights."""

import json
import os
import shutil
from pathlib import Path

import pytest

from t2v.errors import UserError
from t2v.models.folder import embedded_model, model_folder, weights_hash


@pytest.fixture
def folder(tmp_path):
    """Something like a pipeline folder, with a training's state in it."""
    for name in ("vae", "transformer", "training"):
        (tmp_path / "model" / name).mkdir(parents=True)
        (tmp_path / "model" / name / "w.safetensors").write_bytes(name.encode())
    index = {"_class_name": "X", "vae": ["t2v", "V"], "transformer": ["t2v", "T"]}
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    return tmp_path / "model"


def test_the_weights_hash_sees_weights_and_nothing_else(folder, tmp_path):
    before = weights_hash(folder)
    (folder / "training" / "w.safetensors").write_bytes(b"later")
    (folder / "vae" / "config.json").write_text("{}")
    shutil.copytree(folder, tmp_path / "copy")
    assert weights_hash(folder) == weights_hash(tmp_path / "copy") == before
    (folder / "vae" / "w.safetensors").write_bytes(b"other")
    assert weights_hash(folder) != before


def test_a_name_is_a_folder_before_it_is_a_hub_id(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert model_folder("./model") == Path("model")


def test_the_embedded_model_is_a_pipeline_folder_or_its_absence_is_an_error():
    try:
        assert (embedded_model() / "model_index.json").is_file()
    except UserError as error:
        assert "does not include t2v-tiny" in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [("fps", "x"), ("height", "big"), ("width", None), ("num_frames", -1), ("guidance_scale", [1])],
)
def test_what_is_no_number_in_the_index_is_named(name, value, folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {name: value}))
    with pytest.raises(UserError, match=rf"model_index\.json: {name} is .*should be a number"):
        weights_hash(folder)


def test_a_pipe_among_the_weights_is_not_waited_for(folder):
    os.mkfifo(folder / "vae" / "x.safetensors")
    with pytest.raises(UserError, match="is a pipe"):
        weights_hash(folder)
