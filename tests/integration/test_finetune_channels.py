"""`t2v finetune` of a model that reads its pictures beside the noise, as Wan's do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from t2v.config.finetune import FinetuneConfig
from t2v.config.training import OptimConfig, TasksConfig
from t2v.errors import UserError
from t2v.models.latents import denormalize_latents
from t2v.models.transformer import T2VTransformer3DModel
from t2v.pipelines.t2v import T2VPipeline
from t2v.pipelines.visuals import VisualInputs
from t2v.plan.estimate import estimate
from t2v.plan.trace import UNKNOWN
from t2v.training.engine.example import Size
from t2v.training.tasks.finetune import build_finetune, finetune

KINDS = ("plain", "one", "two")
TOKENS = 17  # of the image encoder for one picture
WEIGHTS = "diffusion_pytorch_model.safetensors"
SAVED: dict[str, Any] = {
    "fps": 8,
    "height": 16,
    "width": 32,
    "num_frames": 5,
    "num_inference_steps": 2,
    "guidance_scale": 4.0,
}


@torch.no_grad()
def woken(module: nn.Module, seed: int) -> Any:
    """The module in eval mode with noise on every parameter: fresh zeros would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        nn.init.normal_(parameter, std=fan_in**-0.5, generator=generator)
    return module.eval()


def reader(kind: str) -> Any:
    """A transformer whose pictures enter as channels, and through an image encoder or not."""
    image: dict[str, int] = {} if kind == "plain" else {"image_dim": 16, "added_kv_proj_dim": 32}
    if kind == "two":
        image["pos_embed_seq_len"] = 2 * TOKENS
    model = T2VTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8 + 4 + 8,
        out_channels=8,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        conditioning="channels",
        **image,
    )
    return woken(model, seed=1)


@pytest.fixture(params=KINDS)
def config(request, pipe, clips, tmp_path) -> FinetuneConfig:
    parts: dict[str, Any] = {"transformer": reader(request.param)}
    if request.param != "plain":
        vision = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
        parts["image_encoder"] = woken(CLIPVisionModel(vision), seed=4)
        parts["image_processor"] = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    base = T2VPipeline(**{**pipe.components, **parts}, max_sequence_length=12, **SAVED)
    base.save_pretrained(tmp_path / "base")
    return FinetuneConfig(
        device="cpu", model=str(tmp_path / "base"), data=str(clips), output=str(tmp_path / "tuned"),
        method="full", steps=4, batch_size=3, held_out=3, save_every=2, validate_every=2,
        precision="fp32", caption_dropout=0.0,
        optim=OptimConfig(name="adamw", adam_lr=1e-2, warmup_steps=1, ema_decay=0.5),
    )  # fmt: skip


def test_a_clip_is_given_its_own_pictures_as_sampling_gives_them(config):
    task = build_finetune(config)
    latents = task.batch(0).latents
    given = task.beside(latents)
    pipeline = task._pipeline()
    two = pipeline.transformer.config.pos_embed_seq_len is not None
    z = denormalize_latents(latents, task.vae.config)
    with torch.no_grad():
        frames = task.vae.decode(z, return_dict=False)[0] / 2 + 0.5
    text = task._conditions(task.batch(0))
    for row, clip in enumerate(rearrange(frames.clamp(0, 1), "b c t h w -> b t c h w")):
        last = clip[-1] if two else None
        wanted = sampled(pipeline, text.rows(slice(row, row + 1)), clip[0], last)
        for name, value in given.items():
            torch.testing.assert_close(
                value[row], getattr(wanted, name)[0], atol=1e-4, rtol=1e-4, msg=name
            )
    assert set(given) == {"channels"} | (set() if pipeline.image_encoder is None else {"image"})


def sampled(pipeline: Any, text: Any, image: Tensor, last_image: Tensor | None) -> Any:
    visuals = VisualInputs(image=image, last_image=last_image)
    positive, _ = pipeline.add_visuals((text, None), [visuals], 5, 16, 32)
    return positive


def test_it_learns_and_its_checkpoint_animates_pictures(config):
    checkpoint = finetune(replace(config, steps=12, validate_every=4))
    lines = [json.loads(x) for x in (checkpoint.parent / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in lines if "val_loss" in line]
    assert judged[-1]["val_train_loss"] < judged[-1]["val_train_loss_untuned"]
    loaded = T2VPipeline.from_pretrained(checkpoint)
    loaded.set_progress_bar_config(disable=True)
    before = load_file(Path(config.model) / "transformer" / WEIGHTS)
    after = load_file(checkpoint / "transformer" / WEIGHTS)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"patch_embedding.weight", "blocks.0.attn2.to_k.weight"} <= changed
    if loaded.image_encoder is not None:
        assert "blocks.0.attn2.add_k_proj.weight" in changed
    picture = torch.rand(3, 16, 32)
    last = picture.flip(2) if loaded.transformer.config.pos_embed_seq_len is not None else None
    video = loaded("a red ball", image=picture, last_image=last, output_type="pt").frames
    assert video.shape == (1, 5, 3, 16, 32)


def test_its_plan_runs_and_what_it_cannot_learn_is_one_message(config, tmp_path):
    planned = estimate(config, Size(3, 5, 16, 32, 12), UNKNOWN)
    assert planned.parameters.keys() >= {"transformer", "vae", "text_encoder"}
    (tmp_path / "prompts.txt").write_text("a red box\na blue box")
    with pytest.raises(UserError, match="Leave base_prompts out"):
        build_finetune(replace(config, base_prompts=str(tmp_path / "prompts.txt")))
    with pytest.raises(UserError, match="takes them as channels"):
        build_finetune(replace(config, tasks=TasksConfig(first=1)))
