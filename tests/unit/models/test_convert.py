"""`t2v convert`: a Wan pipeline folder under our classes, answering the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

from t2v.errors import UserError
from t2v.models import wan_vae
from t2v.models.convert import convert_wan_pipeline
from t2v.models.transformer import T2VTransformer3DModel


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan") / "pipeline"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("▁ball", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    WanPipeline(
        tokenizer=T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0),
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
        transformer=WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            text_dim=16,
            ffn_dim=32,
            num_layers=2,
        ),
        vae=AutoencoderKLWan(base_dim=4, num_res_blocks=1),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    ).save_pretrained(folder, max_shard_size="50KB")
    return folder


def edit(folder: Path, file: str, **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def copy(wan_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(wan_folder, tmp_path / "wan"))


def test_the_converted_folder_answers_as_wan_does(wan_folder, tmp_path):
    convert_wan_pipeline(wan_folder, tmp_path / "deep" / "ours")
    index = json.loads((tmp_path / "deep/ours/model_index.json").read_text())
    assert index["_class_name"] == "T2VPipeline"
    assert index["transformer"] == ["t2v", "T2VTransformer3DModel"]
    assert index["vae"] == ["diffusers", "AutoencoderKLWan"]
    assert (index["fps"], index["num_frames"], index["max_sequence_length"]) == (16, 81, 512)

    ours = T2VTransformer3DModel.from_pretrained(tmp_path / "deep/ours/transformer")
    wan = WanTransformer3DModel.from_pretrained(wan_folder / "transformer")
    assert ours.state_dict().keys() == wan.state_dict().keys()
    given = (torch.randn(1, 16, 3, 4, 6), torch.tensor([500.0]), torch.randn(1, 7, 16))
    with torch.no_grad():
        torch.testing.assert_close(ours(*given).sample, wan(*given).sample, atol=1e-5, rtol=1e-5)


def test_the_converted_folder_loads_as_a_pipeline(wan_folder, tmp_path):
    from t2v.pipelines.t2v import T2VPipeline

    convert_wan_pipeline(wan_folder, tmp_path / "ours")
    pipeline = T2VPipeline.from_pretrained(tmp_path / "ours")
    assert type(pipeline.transformer) is T2VTransformer3DModel
    assert type(pipeline.vae) is wan_vae.AutoencoderKLWan
    assert list(pipeline.config.vae) == ["diffusers", "AutoencoderKLWan"]
    assert pipeline.scheduler.config.flow_shift == 3.0


def test_the_converted_folder_passes_the_check_of_diffusers_download(wan_folder, tmp_path):
    """It refuses a component of a library that it knows not and that has no file of code."""
    from diffusers.pipelines.pipeline_loading_utils import _get_custom_components_and_folders

    convert_wan_pipeline(wan_folder, tmp_path / "ours")
    index = json.loads((tmp_path / "ours/model_index.json").read_text())
    files = [str(p.relative_to(tmp_path / "ours")) for p in (tmp_path / "ours").rglob("*.*")]
    custom, folders = _get_custom_components_and_folders("someone/ours", index, files, None)
    assert not custom
    assert set(folders) >= {"transformer", "vae", "text_encoder", "tokenizer", "scheduler"}


@pytest.mark.parametrize("size", ["50KB", "5GB"])
def test_weights_that_are_only_there_as_a_variant_become_plain_ones(wan_folder, tmp_path, size):
    from t2v.models.load import load_parts

    WanPipeline.from_pretrained(wan_folder).save_pretrained(
        tmp_path / "half", variant="fp16", max_shard_size=size
    )
    assert not list((tmp_path / "half").rglob("*model.safetensors"))
    convert_wan_pipeline(tmp_path / "half", tmp_path / "ours")
    convert_wan_pipeline(wan_folder, tmp_path / "plain")
    halves, plain = (
        load_parts("model=x", tmp_path / name, torch.float32) for name in ("ours", "plain")
    )
    assert halves.keys() == plain.keys() == {"transformer", "vae", "text_encoder"}
    for name, part in halves.items():
        torch.testing.assert_close(part.state_dict(), plain[name].state_dict(), atol=0, rtol=0)
    assert not [file for file in (tmp_path / "ours").rglob("*fp16*")]


def test_bad_numbers_in_the_weights_are_named(copy, tmp_path):
    file = sorted((copy / "transformer").glob("*.safetensors"))[-1]
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{name}.* NaN or infinite"):
        convert_wan_pipeline(copy, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_the_wan_folder_is_left_as_it_was(copy, tmp_path):
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    convert_wan_pipeline(copy, tmp_path / "ours")
    assert before == {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}


def test_a_wan_22_5b_folder_brings_its_own_size(copy, tmp_path):
    edit(copy, "model_index.json", expand_timesteps=True, transformer_2=[None, None])
    convert_wan_pipeline(copy, tmp_path / "ours")
    index = json.loads((tmp_path / "ours/model_index.json").read_text())
    assert (index["fps"], index["height"], index["width"]) == (24, 704, 1280)


def test_an_existing_destination_is_never_overwritten(wan_folder, tmp_path):
    (tmp_path / "ours").mkdir()
    with pytest.raises(UserError, match="already exists"):
        convert_wan_pipeline(wan_folder, tmp_path / "ours")


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"model_index\.json does not exist"):
        convert_wan_pipeline(tmp_path, tmp_path / "ours")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "WanVACEPipeline"}, "holds a WanVACEPipeline"),
        ({"_class_name": "WanImageToVideoPipeline"}, "reads 16 channels and latents have 16"),
        ({"_class_name": "LTXPipeline"}, "LTXPipeline"),
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "has no transformer_2"),
        ({"transformer": ["diffusers", "WanVACETransformer3DModel"]}, "WanVACE"),
        ({"vae": [None, None]}, "has no vae"),
    ],
)
def test_other_pipelines_are_refused_and_leave_nothing(copy, tmp_path, changes, words):
    edit(copy, "model_index.json", **changes)
    with pytest.raises(UserError, match=words):
        convert_wan_pipeline(copy, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["wan"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_dim": 1280}, "has no image_encoder"),
        ({"pos_embed_seq_len": 514}, "image_dim is not set"),
        ({"num_layers": 3}, "weights are missing"),
        ({"in_channels": 20}, "reads 20 channels"),
    ],
)
def test_weights_that_do_not_fit_are_refused(copy, tmp_path, changes, words):
    edit(copy, "transformer/config.json", **changes)
    with pytest.raises(UserError, match=words):
        convert_wan_pipeline(copy, tmp_path / "ours")


def test_pickled_weights_are_refused(copy, tmp_path):
    for file in (copy / "transformer").glob("*.safetensors*"):
        file.unlink()
    (copy / "transformer/diffusion_pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(UserError, match=r"no \.safetensors file"):
        convert_wan_pipeline(copy, tmp_path / "ours")
