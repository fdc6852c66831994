"""LoRA files under the names of ComfyUI and back."""

import hashlib

import pytest
import torch
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from t2v.cli import main
from t2v.models.lora import load_lora
from t2v.models.lora_file import WEIGHTS, sort_metadata
from t2v.pipelines.t2v import T2VPipeline

LAYERS = ["to_q", "to_out.0", "net.0.proj", "net.2", "linear_1", "time_proj", "proj_out"]


@pytest.fixture
def lora(pipe, tmp_path):
    config = LoraConfig(r=4, lora_alpha=6, target_modules=LAYERS, init_lora_weights=False)
    pipe.transformer.add_adapter(config)
    metadata = _collate_lora_metadata({"transformer": pipe.transformer})
    settings = metadata["transformer_lora_adapter_metadata"]
    settings["target_modules"] = sorted(settings["target_modules"])
    layers = get_peft_model_state_dict(pipe.transformer)
    T2VPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers, **metadata)
    sort_metadata(tmp_path / WEIGHTS)
    pipe.unload_lora_weights()
    return tmp_path / WEIGHTS


def test_comfyuis_names_and_back_are_equal_to_the_bit_and_act_the_same(
    pipe, lora, tmp_path, capsys
):
    comfyui, back = tmp_path / "comfyui.safetensors", tmp_path / "back.safetensors"
    assert main(["convert", str(lora), str(comfyui), "names=comfyui"]) == 0
    tensors = load_file(comfyui)
    first = "diffusion_model.blocks.0.self_attn.q"
    assert {f"{first}.lora_A.weight", f"{first}.alpha", "diffusion_model.head.head.alpha"} <= (
        tensors.keys()
    )
    assert all(name.startswith("diffusion_model.") for name in tensors)
    assert main(["convert", str(comfyui), str(back), "names=diffusers"]) == 0
    one, other = (hashlib.sha256(path.read_bytes()).digest() for path in (lora, back))
    assert one == other
    effects = []
    for path in (lora, comfyui):
        effects.append(load_lora(pipe, path, 1.0))
        pipe.unload_lora_weights()
    assert effects[0] == pytest.approx(effects[1], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["LORA", "out.txt", "names=comfyui"], "dst=out.txt: give a name that ends in"),
        (["LORA", "LORA", "names=comfyui"], "already exists"),
        (["LORA", "out.safetensors"], "is a file. Give a pipeline folder; or names=comfyui"),
        (["none", "out.safetensors", "names=comfyui"], "there is no such file"),
        (["ODD", "out.safetensors", "names=comfyui"], "1 of its 1 layers (transformer.a) hold"),
        (["LTX", "out.safetensors", "names=comfyui"], "to_q: a layer that Wan has not, and"),
    ],
)
def test_what_cannot_be_renamed_is_said(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    save_file(
        {"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 2)}, "LORA.safetensors"
    )
    save_file({"transformer.a.lokr_w1": torch.ones(2, 2)}, "ODD.safetensors")
    layer = "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"
    save_file({layer: torch.ones(2, 2)}, "LTX.safetensors")
    words = [f"{word}.safetensors" if word in ("LORA", "ODD", "LTX") else word for word in words]
    assert main(["convert", *words]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.glob("out*"))
