"""A pipeline folder: written, and loaded in every way diffusers offers."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoModel, DiffusionPipeline, UniPCMultistepScheduler
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict

from t2v.models.load import load_parts
from t2v.models.transformer import T2VTransformer3DModel
from t2v.pipelines.t2v import T2VPipeline

PROMPT = "a red ball rolls on the grass"
ROOT = Path(__file__).parents[2]


def latents(pipe: T2VPipeline, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe(PROMPT, generator=generator, output_type="latent", **options).frames


@pytest.fixture
def folder(pipe, tmp_path) -> Path:
    pipe.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def test_a_saved_pipeline_comes_back_equal(pipe, folder):
    loaded = T2VPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    saved = json.loads((folder / "model_index.json").read_text())
    assert all(loaded.config[name] == pipe.config[name] for name in saved if name[0] != "_")
    generators = [torch.Generator().manual_seed(7) for _ in range(2)]
    ours, theirs = (
        each(PROMPT, generator=generator).frames
        for each, generator in zip((pipe, loaded), generators, strict=True)
    )
    np.testing.assert_array_equal(theirs, ours)


def test_the_folder_names_its_classes_by_their_short_names(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "T2VPipeline"
    assert index["transformer"] == ["t2v", "T2VTransformer3DModel"]
    assert index["vae"] == ["t2v", "AutoencoderKLT2V"]
    assert (index["fps"], index["num_frames"], index["max_sequence_length"]) == (8, 9, 12)


def test_a_folder_that_names_classes_by_module_still_loads(pipe, folder):
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    index["transformer"][0], index["vae"][0] = "t2v.models.transformer", "t2v.models.vae"
    path.write_text(json.dumps(index))
    for loader in (DiffusionPipeline, T2VPipeline):
        loaded = loader.from_pretrained(folder)
        loaded.set_progress_bar_config(disable=True)
        assert torch.equal(latents(loaded), latents(pipe))


def test_a_folder_that_names_modules_that_have_moved_loads(pipe, folder):
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    index["transformer"][0], index["vae"][0] = "t2v.dit", "t2v.models.video_vae"
    path.write_text(json.dumps(index))
    parts = load_parts(f"model={folder}", folder, torch.float32)
    assert type(parts["transformer"]) is T2VTransformer3DModel
    for given in ({}, parts):
        loaded = T2VPipeline.from_pretrained(folder, **given)
        loaded.set_progress_bar_config(disable=True)
        assert torch.equal(latents(loaded), latents(pipe))


def test_the_embedded_model_loads_by_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    pipe = T2VPipeline.from_pretrained("t2v-tiny")
    assert pipe.transformer.num_parameters() > 1e6 and pipe.config.num_frames > 1


def test_components_and_settings_can_be_swapped_while_loading(pipe, folder, transformer):
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    with torch.no_grad():
        transformer.proj_out.bias.add_(1.0)
    loaded = DiffusionPipeline.from_pretrained(
        folder, transformer=transformer, scheduler=scheduler, num_frames=5
    )
    assert loaded.transformer is transformer and loaded.scheduler is scheduler
    assert loaded.config.num_frames == 5
    other = T2VPipeline.from_pipe(pipe, scheduler=scheduler)
    assert other.vae is pipe.vae and other.scheduler is scheduler


def test_a_single_component_loads_by_itself(folder, transformer):
    model = AutoModel.from_pretrained(str(folder), subfolder="transformer")
    assert isinstance(model, T2VTransformer3DModel)
    torch.testing.assert_close(model.state_dict(), transformer.state_dict())


def test_a_lora_changes_the_video_and_leaves_without_a_trace(pipe, tmp_path):
    plain = latents(pipe)
    config = LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(config)
    tuned = latents(pipe)
    assert (tuned - plain).abs().max() > 1e-3
    layers = get_peft_model_state_dict(pipe.transformer)
    metadata = _collate_lora_metadata({"transformer": pipe.transformer})
    T2VPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers, **metadata)
    pipe.unload_lora_weights()
    assert torch.equal(latents(pipe), plain)
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    torch.testing.assert_close(latents(pipe), tuned, atol=1e-4, rtol=1e-4)
    assert torch.equal(latents(pipe, attention_kwargs={"scale": 0.0}), plain)
    pipe.fuse_lora()
    torch.testing.assert_close(latents(pipe), tuned, atol=1e-4, rtol=1e-4)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(latents(pipe), plain, atol=1e-4, rtol=1e-4)


def test_a_lora_in_wans_own_format_loads(pipe):
    plain, width = latents(pipe), 32
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for block in range(2):
        for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q"):
            place = f"diffusion_model.blocks.{block}.{name}"
            layers[f"{place}.lora_A.weight"] = torch.randn(4, width, generator=generator)
            layers[f"{place}.lora_B.weight"] = torch.randn(width, 4, generator=generator)
    pipe.load_lora_weights(layers)
    assert (latents(pipe) - plain).abs().max() > 1e-3


IMPORTS = {
    "t2v first": "import t2v\nfrom diffusers import WanPipeline, DiffusionPipeline",
    "diffusers first": "from diffusers import DiffusionPipeline\nimport t2v",
    "a part of the pipeline first": "import t2v.pipelines.channels\n"
    "from diffusers import DiffusionPipeline",
    "one model first": "from t2v.models.transformer import T2VTransformer3DModel\n"
    "from diffusers import DiffusionPipeline",
}


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(order, marks=[pytest.mark.slow] * (number > 1))
        for number, order in enumerate(IMPORTS)
    ],
)
def test_a_fresh_process_loads_the_folder(folder, order):
    script = IMPORTS[order] + textwrap.dedent(f"""
        pipe = DiffusionPipeline.from_pretrained({str(folder)!r})
        import t2v
        assert type(pipe) is t2v.T2VPipeline
        print(type(pipe).__module__, type(pipe.vae).__module__, pipe.config.fps)
    """)
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == ["t2v.pipelines.t2v", "t2v.models.vae", "8"]


def test_importing_the_package_loads_neither_torch_nor_diffusers():
    script = "import t2v, sys; print(t2v.__version__, {'torch', 'diffusers'} & {*sys.modules})"
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed.endswith("set()\n")
