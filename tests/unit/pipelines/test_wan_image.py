"""Wan's image-to-video pipelines, converted: the same videos as diffusers makes of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from t2v.config.finetune import FinetuneConfig
from t2v.config.plan import PlanConfig
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.models.convert import convert_wan_pipeline
from t2v.models.latents import normalize_latents
from t2v.models.lora import load_lora
from t2v.models.transformer import T2VTransformer3DModel
from t2v.pipelines.t2v import T2VPipeline
from t2v.plan.run import plan
from t2v.training.tasks.finetune import build_finetune

KINDS = ("clip", "plain", "first_last", "tokens", "two_stage")
TOKENS = 17  # of the image encoder: 4 x 4 patches and one of the whole picture


@torch.no_grad()
def wake(model: nn.Module, seed: int) -> Any:
    """Fill every parameter with noise as strong as its input is wide: zeros would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 10
        nn.init.normal_(parameter, std=fan_in**-0.5, generator=generator)
    return model.eval()


def wan_transformer(kind: str, seed: int) -> WanTransformer3DModel:
    image = {"image_dim": 20, "added_kv_proj_dim": 24} if kind in ("clip", "first_last") else {}
    channels = {"in_channels": 16 if kind == "text" else 36}
    if kind == "tokens":
        channels = {"in_channels": 48, "out_channels": 48}
    if kind == "first_last":
        image["pos_embed_seq_len"] = 2 * TOKENS
    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        **channels,
        **image,
    )
    return wake(model, seed)


def wan_vae(kind: str) -> AutoencoderKLWan:
    if kind != "tokens":
        return wake(AutoencoderKLWan(base_dim=4, num_res_blocks=1), 2)
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=48,
        num_res_blocks=1,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[i / 48 for i in range(48)],
        latents_std=[1 + i / 48 for i in range(48)],
    )
    return wake(vae, 2)


def wan_pipeline(kind: str, text_alone: bool = False) -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("▁ball", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    text = UMT5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    vision = CLIPVisionConfig(
        hidden_size=20,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    parts: dict[str, Any] = {"transformer": wan_transformer(kind, 1)}
    if kind in ("clip", "first_last"):
        parts["image_encoder"] = wake(CLIPVisionModel(vision), 4)
        parts["image_processor"] = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    if kind == "two_stage":
        parts |= {"transformer_2": wan_transformer(kind, 5), "boundary_ratio": 0.9}
    if text_alone and kind != "tokens":
        for name in ("transformer", "transformer_2")[: 2 if "transformer_2" in parts else 1]:
            parts[name] = wan_transformer("text", 1 if name == "transformer" else 5)
    pipeline = (WanPipeline if text_alone else WanImageToVideoPipeline)(
        tokenizer=T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0),
        text_encoder=wake(UMT5EncoderModel(text), 3),
        vae=wan_vae(kind),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        expand_timesteps=kind == "tokens",
        **parts,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, T2VPipeline, Path]]:
    """diffusers' pipeline of each kind, ours converted from its folder, and that folder."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        theirs = wan_pipeline(kind)
        theirs.save_pretrained(folder / "wan")
        convert_wan_pipeline(folder / "wan", folder / "ours")
        ours = T2VPipeline.from_pretrained(folder / "ours")
        ours.set_progress_bar_config(disable=True)
        made[kind] = theirs, ours, folder / "ours"
    return made


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def request(kind: str, height: int, width: int, num_frames: int, **changes: Any) -> dict[str, Any]:
    """The keywords of a call that both pipelines take."""
    channels, stride = (48, 16) if kind == "tokens" else (16, 8)
    rows = len(changes.get("prompt", "a ball")) if "prompt" in changes else 1
    shape = rows, channels, (num_frames - 1) // 4 + 1, height // stride, width // stride
    call = {
        "prompt": "a ball",
        "negative_prompt": "a",
        "image": picture(height, width),
        "height": height,
        "width": width,
        "num_frames": num_frames,
        "num_inference_steps": 4,
        "guidance_scale": 4.0,
        "latents": torch.randn(shape, generator=torch.Generator().manual_seed(3)),
    }
    if kind == "first_last":
        call["last_image"] = picture(height, width, seed=1)
    if kind == "two_stage":
        call["guidance_scale_2"] = 2.0
    return call | changes


def compare(pairs: Any, kind: str, call: dict[str, Any]) -> np.ndarray:
    """Frames of ours, held to 1e-5 of those of diffusers."""
    theirs, ours, _ = pairs[kind]
    wanted, frames = (pipeline(**call, output_type="np").frames for pipeline in (theirs, ours))
    assert float(np.abs(frames - wanted).max()) <= 1e-5
    return frames


@pytest.mark.parametrize("size", [(32, 64, 9), (64, 32, 13), (32, 32, 5)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_gives_wans_video(pairs, kind, size):
    call = request(kind, *size)
    frames = compare(pairs, kind, call)
    other = pairs[kind][1](**call | {"image": picture(*size[:2], seed=9)}, output_type="np").frames
    assert float(np.abs(frames - other).max()) > 1e-3


@pytest.mark.parametrize("kind", ["plain", "two_stage"])
def test_a_last_picture_gives_wans_video(pairs, kind):
    call = request(kind, 32, 48, 9, last_image=picture(32, 48, seed=1))
    compare(pairs, kind, call)


@pytest.mark.parametrize("kind", KINDS)
def test_two_prompts_and_no_guidance_give_wans_videos(pairs, kind):
    call = request(kind, 32, 32, 5, prompt=["a ball", "a"], guidance_scale=1.0)
    del call["negative_prompt"]
    compare(pairs, kind, call)


def converted(theirs: Any, folder: Path) -> T2VPipeline:
    theirs.save_pretrained(folder / "wan")
    convert_wan_pipeline(folder / "wan", folder / "ours")
    ours = T2VPipeline.from_pretrained(folder / "ours")
    ours.set_progress_bar_config(disable=True)
    return ours


@pytest.mark.parametrize("kind", ["plain", "tokens", "two_stage"])
def test_text_alone_gives_wans_video(kind, tmp_path):
    theirs = wan_pipeline(kind, text_alone=True)
    ours = converted(theirs, tmp_path)
    call = request(kind, 32, 64, 9)
    del call["image"]
    compare({kind: (theirs, ours, None)}, kind, call)


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
def test_an_edit_goes_from_the_clip_to_the_text_alone(scheduler, tmp_path):
    ours = converted(wan_pipeline("plain", text_alone=True), tmp_path)
    if scheduler == "euler":
        ours.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    call = request("plain", 32, 64, 9)
    del call["image"]
    clip = [picture(32, 64, seed) for seed in range(9)]
    text = ours(**call, output_type="latent").frames
    whole, half, none = (
        ours(**call, video=clip, strength=strength, output_type="latent").frames
        for strength in (1.0, 0.5, 1e-6)
    )
    assert torch.equal(whole, text)
    pixels = torch.stack([to_tensor(frame) for frame in clip], dim=1)[None] * 2 - 1
    source = ours.vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(
        none, normalize_latents(source, ours.vae.config), atol=1e-4, rtol=1e-4
    )
    for other in (whole, none):
        assert (half - other).abs().max() > 0.1
    frames = ours(**call, video=clip, strength=1e-6, output_type="pt").frames
    decoded = ours.vae.decode(source, return_dict=False)[0] / 2 + 0.5
    torch.testing.assert_close(
        frames[0], decoded[0].transpose(0, 1).clamp(0, 1), atol=1e-3, rtol=1e-3
    )


def to_tensor(frame: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(frame)).permute(2, 0, 1) / 255


def test_a_converted_pipeline_saved_and_loaded_makes_the_same_bits(pairs, tmp_path):
    for kind in KINDS:
        _, ours, _ = pairs[kind]
        ours.save_pretrained(tmp_path / kind)
        again = T2VPipeline.from_pretrained(tmp_path / kind)
        again.set_progress_bar_config(disable=True)
        call = request(kind, 32, 32, 5, output_type="np")
        assert np.array_equal(again(**call).frames, ours(**call).frames), kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_as_one_by_one(pairs, kind):
    _, ours, _ = pairs[kind]
    call = request(kind, 32, 32, 5, prompt=["a ball", "a"], output_type="np")
    whole = ours(**call).frames
    for row, prompt in enumerate(call["prompt"]):
        one = call | {"prompt": prompt, "latents": call["latents"][row : row + 1]}
        assert np.array_equal(ours(**one).frames[0], whole[row]), prompt


def test_an_image_encoder_in_fp32_serves_a_transformer_in_bf16(pairs):
    theirs, ours, folder = pairs["clip"]
    place = folder.parent / "wan" / "transformer"
    halves = [
        kind.from_pretrained(place, torch_dtype=torch.bfloat16)
        for kind in (WanTransformer3DModel, T2VTransformer3DModel)
    ]
    halves[1].register_to_config(conditioning="channels")
    call = request("clip", 32, 32, 5, output_type="latent")
    frames = []
    for pipeline, half in zip((theirs, ours), halves, strict=True):
        parts = pipeline.components | {"transformer": half}
        one = type(pipeline)(**parts)
        one.set_progress_bar_config(disable=True)
        frames.append(one(**call).frames)
    assert ((frames[1] - frames[0]).norm() / frames[0].norm()).item() <= 0.02


def test_both_transformers_take_their_turn(pairs):
    _, ours, _ = pairs["two_stage"]
    calls: list[str] = []
    for name in ("transformer", "transformer_2"):
        getattr(ours, name).proj_out.register_forward_hook(lambda *_, name=name: calls.append(name))
    ours(**request("two_stage", 32, 32, 5), output_type="latent")
    assert calls == sorted(calls) and set(calls) == {"transformer", "transformer_2"}


def test_the_scale_of_the_second_transformer_counts_for_it_alone(pairs):
    _, ours, _ = pairs["two_stage"]
    latents = [
        ours(**request("two_stage", 32, 32, 5, guidance_scale_2=scale), output_type="latent").frames
        for scale in (None, 4.0, 2.0)
    ]
    assert torch.equal(latents[0], latents[1])
    assert not torch.equal(latents[1], latents[2])


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("clip", {"image": None}, "videos of a picture, and none is given: give image"),
        ("first_last", {"image": None, "last_image": None}, "give image and last_image"),
        ("first_last", {"last_image": None}, "between two: give last_image too"),
        ("clip", {"last_image": picture(32, 32)}, "takes one picture, the first frame"),
        ("plain", {"image": None, "last_image": picture(32, 32)}, "The first frame is not given"),
        ("plain", {"image": None, "video": [picture(32, 32)] * 5, "strength": 0.5}, "strength is"),
        ("tokens", {"last_image": picture(32, 32)}, "frames 4 are given alone"),
        ("plain", {"guidance_scale_2": 3.0}, "one transformer, so it takes guidance_scale"),
    ],
)
def test_pictures_that_a_model_does_not_take_are_one_message(pairs, kind, changes, words):
    _, ours, _ = pairs[kind]
    with pytest.raises(UserError, match=words):
        ours(**request(kind, 32, 32, 5, **changes))


def test_a_pipeline_without_its_image_encoder_says_so(pairs):
    _, _, folder = pairs["clip"]
    bare = T2VPipeline.from_pretrained(folder, image_encoder=None)
    with pytest.raises(UserError, match="image encoder, and the pipeline has none"):
        bare(**request("clip", 32, 32, 5))


def test_a_lora_goes_into_the_transformer_that_is_named(pairs, tmp_path):
    _, _, folder = pairs["two_stage"]
    ours = T2VPipeline.from_pretrained(folder)
    layers = {
        f"transformer.blocks.{block}.attn1.to_q.lora_{half}.weight": torch.randn(*shape)
        for block in range(2)
        for half, shape in (("A", (2, 24)), ("B", (24, 2)))
    }
    save_file(layers, tmp_path / "lora.safetensors")
    assert load_lora(ours, tmp_path / "lora.safetensors", 1.0, "transformer_2") > 0
    assert ours.get_list_adapters() == {"transformer_2": ["lora"]}
    assert load_lora(ours, tmp_path / "lora.safetensors", 0.5, "transformer") > 0
    assert set(ours.get_list_adapters()) == {"transformer", "transformer_2"}
    ours.unload_lora_weights()
    assert not ours.get_list_adapters()
    one = T2VPipeline.from_pretrained(pairs["plain"][2])
    with pytest.raises(UserError, match=r"lora_part=transformer_2: .* has one transformer"):
        load_lora(one, tmp_path / "lora.safetensors", 1.0, "transformer_2")


@pytest.mark.parametrize("kind", ["first_last", "tokens", "two_stage"])
def test_a_plan_of_sampling_counts_all_parts(pairs, kind):
    _, ours, folder = pairs[kind]
    target = SampleConfig(model=str(folder), num_frames=9, height=32, width=64)
    made = plan(PlanConfig(command="sample"), target)
    parts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in ours.components.items()
        if isinstance(part, nn.Module)
    }
    assert made.estimate.parameters == parts
    names = [phase.name for phase in made.estimate.phases]
    assert ("pictures" in names) == (kind != "tokens")


def test_finetuning_of_two_transformers_whole_is_refused(tmp_path):
    converted(wan_pipeline("two_stage", text_alone=True), tmp_path)
    model = str(tmp_path / "ours")
    config = FinetuneConfig(output="run", data="nowhere", model=model, method="full")
    with pytest.raises(UserError, match="has two transformers"):
        build_finetune(config)
