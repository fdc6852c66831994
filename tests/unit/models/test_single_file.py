"""A transformer in one file, under any of its names, is that of the folder it was taken from."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from t2v.cli import main
from t2v.errors import UserError
from t2v.families.load import load_generator
from t2v.models.convert import convert_wan_pipeline
from t2v.models.hold import Hold
from t2v.models.load import load_network, network_classes
from t2v.models.single_file import COMFYUI, load_single_file
from t2v.pipelines.generator import sample_videos
from t2v.pipelines.released import embed_first
from t2v.sampling.results import read_frames, read_recipe

from ..families.tiny import build

WANS = {  # names of diffusers and of Wan's authors
    r"condition_embedder\.time_embedder\.linear_1": "time_embedding.0",
    r"condition_embedder\.time_embedder\.linear_2": "time_embedding.2",
    r"condition_embedder\.text_embedder\.linear_1": "text_embedding.0",
    r"condition_embedder\.text_embedder\.linear_2": "text_embedding.2",
    r"condition_embedder\.time_proj": "time_projection.1",
    r"^proj_out": "head.head",
    r"^scale_shift_table": "head.modulation",
    r"\.scale_shift_table": ".modulation",
    r"attn1\.to_out\.0": "self_attn.o",
    r"attn2\.to_out\.0": "cross_attn.o",
    r"attn1\.(to_)?": "self_attn.",
    r"attn2\.(to_)?": "cross_attn.",
    r"ffn\.net\.0\.proj": "ffn.0",
    r"ffn\.net\.2": "ffn.2",
    r"\.norm2\.": ".norm3.",
}


def wans(name):
    for old, new in WANS.items():
        name = re.sub(old, new, name)
    return name


@pytest.fixture
def folders(wan, tmp_path):
    """A pipeline of diffusers, ours made of it, and the same two without a transformer's weights;
    the transformer's own file."""
    for tensor in wan.transformer.parameters():
        torch.nn.init.normal_(tensor, std=0.2, generator=torch.Generator().manual_seed(1))
    wan.save_pretrained(tmp_path / "wan")
    convert_wan_pipeline(tmp_path / "wan", tmp_path / "ours")
    for name in ("wan", "ours"):
        shutil.copytree(tmp_path / name, tmp_path / f"bare-{name}")
        (weights,) = (tmp_path / f"bare-{name}" / "transformer").glob("*.safetensors")
        weights.unlink()
    return tmp_path, tmp_path / "wan" / "transformer" / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("base", ["wan", "ours"])
def test_every_naming_gives_the_weights_of_the_folder(base, folders):
    (folder, plain), dtype = folders, torch.bfloat16
    kind = network_classes("model=x", folder / base)["transformer"]
    whole = load_network("model=x", kind, folder / base, "transformer", torch_dtype=dtype)
    wanted = whole.state_dict()
    tensors = load_file(plain)
    authors = {wans(name): each for name, each in tensors.items()}
    namings = {
        "diffusers": tensors,
        "authors": authors,
        "comfyui": {COMFYUI + name: each for name, each in authors.items()},
    }
    for naming, named in namings.items():
        file = folder / f"{naming}.safetensors"
        save_file(named, file)
        found = load_single_file("model=x", file, folder / f"bare-{base}", dtype)
        assert type(found) is kind
        assert found.state_dict().keys() == wanted.keys()
        assert all(each.dtype == wanted[name].dtype for name, each in found.state_dict().items())
        assert all(torch.equal(each, wanted[name]) for name, each in found.state_dict().items())


def test_a_file_of_another_model_is_one_message(folders):
    folder, plain = folders
    tensors, file = load_file(plain), folder / "x.safetensors"
    more = {name.replace("blocks.1.", "blocks.2."): each for name, each in tensors.items()}
    nan = tensors | {"proj_out.bias": torch.full_like(tensors["proj_out.bias"], float("nan"))}
    others = [{"a": torch.zeros(1)}, dict(list(tensors.items())[1:]), tensors | more, nan]
    for other in others:
        save_file({name: each.clone() for name, each in other.items()}, file)
        with pytest.raises(UserError, match=r"^model=x: "):
            load_single_file("model=x", file, folder / "bare-ours", torch.float32)
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"^model=x: is damaged or not whole \(.*header.*\)"):
        load_single_file("model=x", file, folder / "bare-ours", torch.float32)


def test_a_sample_of_it_is_that_of_the_folder_and_its_recipe_makes_it_again(
    folders, monkeypatch, capsys
):
    folder, plain = folders
    monkeypatch.chdir(folder)
    words = ["a ball", "height=32", "width=32", "num_frames=5", "num_inference_steps=2"]
    single = ["--model", str(plain), f"base={folder / 'bare-ours'}"]
    assert main(["sample", *words, "--model", "ours", "-o", "a.mp4"]) == 0
    assert main(["sample", *words, *single, "-o", "b.mp4"]) == 0, capsys.readouterr().err
    assert (read_frames(Path("a.mp4")) == read_frames(Path("b.mp4"))).all()
    assert main(["sample", *words, *single, "-o", "b.mp4"]) == 0
    assert "exists already" in capsys.readouterr().err
    theirs = [*words, "fps=16", "--model", str(plain), "base=bare-wan", "-o", "w.mp4"]
    assert main(["sample", *theirs]) == 0, capsys.readouterr().err
    assert main(["sample", "--recipe", "b.mp4"]) == 0
    assert read_recipe(Path("b-again.mp4"))["settings"]["base"] == str(folder / "bare-ours")
    for given, said in (
        (["--model", str(plain)], "one file has no VAE"),
        (["--model", "ours", "base=ours"], "goes together with model=FILE.safetensors"),
        (["--model", "x.gguf", "base=ours", "quantize=fp8"], "are quantized already"),
        (["--model", "x.gguf", "base=ours", "offload=group"], "do not move in pieces"),
        (["--model", "x.safetensors", "base=ours"], "x.safetensors"),
    ):
        assert main(["sample", *words, *given, "-o", "c.mp4"]) == 2
        assert said in capsys.readouterr().err
    tensors = load_file(plain)
    tensors["proj_out.bias"] += 1
    save_file(tensors, plain)
    assert main(["sample", "--recipe", "b.mp4", "-o", "d.mp4"]) == 2
    assert "its weights" in capsys.readouterr().err


def write_gguf(file, tensors, kind):
    """A GGUF file with all linear layers that have whole blocks of 32 in a format."""
    gguf = pytest.importorskip("gguf")
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    writer, whole = gguf.GGUFWriter(file, "wan"), {}
    for name, each in tensors.items():
        values, packs = each.numpy(), each.ndim == 2 and each.shape[-1] % 32 == 0
        format_ = kind if packs else gguf.GGMLQuantizationType.F32
        packed = gguf.quants.quantize(values, format_)
        writer.add_tensor(name, packed, raw_dtype=format_)
        blocks = GGUFParameter(torch.from_numpy(packed), quant_type=format_) if packs else None
        whole[name] = each if blocks is None else dequantize_gguf_tensor(blocks).float()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return whole


@pytest.mark.parametrize(("kind", "most"), [("Q8_0", 0.02), ("Q4_0", 0.3)])
@pytest.mark.parametrize("base", ["ours", "wan", "ltx"])
def test_a_gguf_file_gives_the_video_of_its_weights_and_stays_small(
    base, kind, most, wan, tokenizer, text_encoder, wake, tmp_path
):
    gguf = pytest.importorskip("gguf")
    if base == "ltx":
        pipe = build("ltx", {"tokenizer": tokenizer, "text_encoder": text_encoder}, wake)
    else:
        shape = {**wan.transformer.config, "attention_head_dim": 16}
        wan.register_modules(transformer=wake(WanTransformer3DModel.from_config(shape)))
        pipe = wan
    pipe.save_pretrained(tmp_path / "ltx" if base == "ltx" else tmp_path / "wan")
    if base == "ours":
        convert_wan_pipeline(tmp_path / "wan", tmp_path / "ours")
    tensors = {name: each.detach() for name, each in pipe.transformer.state_dict().items()}
    whole = write_gguf(tmp_path / "x.gguf", tensors, gguf.GGMLQuantizationType[kind])
    save_file(whole, tmp_path / "whole.safetensors")

    def draw(file=None, **held):
        def asked(generator):
            size = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2}
            return replace(generator.defaults, **size)

        about = {"single": file and tmp_path / file, "hold": Hold(**held)}
        about["embed"] = lambda generator: embed_first(generator, ["a ball"], asked(generator))
        folder, cpu = tmp_path / base, torch.device("cpu")
        generator = load_generator("x", folder, cpu, torch.float32, "a test", **about)
        (latents,) = sample_videos(generator, ["a ball"], [0], asked(generator))
        return generator.pipeline.transformer, latents

    transformer, latents = draw("x.gguf")
    assert torch.equal(latents, draw("x.gguf", offload="text")[1])
    _, wanted = draw("whole.safetensors")
    torch.testing.assert_close(latents, wanted, rtol=1e-5, atol=1e-5)
    # others compute with weights as their files happen to lie
    assert base != "ours" or torch.equal(latents, wanted)
    _, plain = draw()
    error = ((latents - plain).norm() / plain.norm()).item()
    print(f"{base} {kind}: latents are off by {error:.2%}")  # noqa: T201
    assert 0 < error < most
    small = sum(each.nbytes for each in transformer.parameters() if each.dtype == torch.uint8)
    large = sum(each.nbytes for each in tensors.values() if each.ndim == 2)
    assert 0 < small < 0.4 * large


def test_without_its_package_a_gguf_file_is_one_message(folders, monkeypatch):
    monkeypatch.setattr("t2v.models.single_file.find_spec", lambda package: None)
    with pytest.raises(UserError, match=r'^model=x: needs gguf, .* pip install "t2v\[quantize\]"'):
        load_single_file("model=x", folders[0] / "x.gguf", folders[0] / "ours", torch.float32)
