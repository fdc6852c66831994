"""Modular folders of diffusers are sampled as the pipelines that compute with the same parts."""

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from t2v.errors import UserError
from t2v.families.load import load_generator
from t2v.models import modular
from t2v.models.folder import model_folder, read_index, weights_hash
from t2v.pipelines.generator import Request

from .tiny import build

KINDS = {
    "wan_a14b": "Wan22ModularPipeline",
    "ltx": "LTXModularPipeline",
    "ltx2": "LTX2ModularPipeline",
    "hunyuan_15": "HunyuanVideo15ModularPipeline",
}
pytestmark = pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated")


@pytest.fixture
def saved(tokenizer, text_encoder, wake, tmp_path, monkeypatch):
    """A tiny pipeline, saved in its folder, and in another as its modular pipeline saves it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(modular, "VIEWS", tmp_path / "views")

    def saved(name):
        pipeline = build(name, {"tokenizer": tokenizer, "text_encoder": text_encoder}, wake)
        pipeline.save_pretrained(name)
        other = getattr(diffusers, KINDS[name])(pretrained_model_name_or_path=name)
        other.load_components(torch_dtype=torch.float32)
        other.save_pretrained(f"{name}_modular", overwrite_modular_index=True)
        return pipeline, Path(f"{name}_modular")

    return saved


def test_a_modular_folder_gives_the_frames_of_its_parts_under_the_same_hash(saved):
    pipeline, folder = saved("wan_a14b")
    found = model_folder(str(folder))
    assert found == model_folder(str(folder.absolute()))  # made once
    generator = load_generator(str(folder), found, torch.device("cpu"), torch.float32, "sample")
    size = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 2}
    request = Request(**size, guidance_scale=5.0, negative_prompt="", fps=16)
    latents = generator.generate(generator.encode(["a red ball"], request), request, [3])
    seed = torch.Generator().manual_seed(3)
    frames = pipeline("a red ball", **size, generator=seed, output_type="np").frames
    assert np.abs(frames * 255 - generator.decode(latents, 5)).max() <= 0.501
    assert weights_hash(found) == weights_hash(Path("wan_a14b"))


@pytest.mark.parametrize("name", ["ltx2", "hunyuan_15"])
def test_the_parts_of_each_modular_pipeline_are_those_of_its_standard_one(name, saved):
    pipeline, folder = saved(name)
    found = model_folder(str(folder))
    assert read_index(found)["_class_name"] == type(pipeline).__name__
    loaded = type(pipeline).from_pretrained(found)
    assert {key: type(part) for key, part in loaded.components.items()} == {
        key: type(part) for key, part in pipeline.components.items()
    }


def test_repositories_that_are_not_here_are_named_in_one_message(saved):
    _, folder = saved("ltx")
    index = json.loads((folder / modular.MODULAR).read_text())
    for name, repo in (("vae", "them/vae"), ("transformer", "us/ltx")):
        shutil.rmtree(folder / name)
        index[name][2]["pretrained_model_name_or_path"] = repo

    def said(index):
        (folder / modular.MODULAR).write_text(json.dumps(index))
        with pytest.raises(UserError) as error:
            model_folder(str(folder))
        return str(error.value)

    words = said(index)
    assert "transformer from us/ltx/transformer, vae from them/vae/vae, not here" in words
    assert "`hf download them/vae` and `hf download us/ltx`" in words
    index["vae"][2]["pretrained_model_name_or_path"] = None
    assert "it does not say where vae is" in said(index)
    assert "has no other pipeline" in said(index | {"_class_name": "MiniMaxH3ModularPipeline"})
    assert "holds no names and values" in said([])
    shutil.copytree("ltx/vae", "elsewhere/vae")
    shutil.copytree("ltx/transformer", folder / "us" / "ltx" / "transformer")  # beside the index
    index["vae"][2]["pretrained_model_name_or_path"] = "elsewhere"
    (folder / modular.MODULAR).write_text(json.dumps(index))
    assert (model_folder(str(folder)) / "vae").resolve() == Path("elsewhere/vae").absolute()
