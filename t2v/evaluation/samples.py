"""The videos of a model for a suite, sampled once and kept by recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from t2v.config.evaluation import EvalConfig, FootageEvalConfig
from t2v.data.cache import Cache, weights_digest
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.io.hashes import digest
from t2v.models.device import pick_device, pick_dtype, ready
from t2v.models.folder import model_folder
from t2v.pipelines.generator import Ability, Generator, Request, sample_videos
from t2v.pipelines.load import load_generator

PARTS = ("transformer", "text_encoder", "vae")


def load_model(
    config: EvalConfig | FootageEvalConfig, command: str, needs: Sequence[Ability] = ()
) -> Generator:
    """The generator of `config.model`, on its device.

    Raises:
        UserError: it is not there, it is damaged, it lacks something, or there is no such device.
    """
    device = pick_device(config.device)
    folder, dtype = model_folder(config.model), pick_dtype(config.dtype, device)
    return load_generator(config.model, folder, device, dtype, command, needs)


def request_of(generator: Generator, config: EvalConfig) -> Request:
    """The videos that an evaluation asks for: the generator's own, but for steps and guidance."""
    own = generator.defaults
    steps, scale = config.num_inference_steps, config.guidance_scale
    return replace(
        own,
        num_inference_steps=steps or own.num_inference_steps,
        guidance_scale=own.guidance_scale if scale is None else scale,
    )


def networks(generator: Generator) -> dict[str, nn.Module]:
    """The networks that make a video, by name; those of ours in the order of old recipes."""
    parts = generator.pipeline.components
    names = sorted(name for name, part in parts.items() if isinstance(part, nn.Module))
    names.sort(key=lambda name: PARTS.index(name) if name in PARTS else len(PARTS))
    return {name: parts[name] for name in names}


def recipes(generator: Generator, prompts: tuple[str, ...], config: EvalConfig) -> list[str]:
    """A hash of all that makes each video; prompt i is sampled with seed + i."""
    asked, pipeline = request_of(generator, config), generator.pipeline
    model = [weights_digest(part) for part in networks(generator).values()]
    scheduler = pipeline.components.get("scheduler")
    rules = (
        sorted((name, str(value)) for name, value in scheduler.config.items()) if scheduler else []
    )
    sizes = [asked.height, asked.width, asked.num_frames]
    scale = asked.guidance_scale
    same: tuple[object, ...] = (model, rules, sizes, asked.num_inference_steps)
    same += (scale if scale is None else float(scale),)
    if pipeline.device.type != "cpu":  # another device sums in another order
        same += (pipeline.device.type,)
    if not generator.is_trainable:  # ours always had recipes without the name of their class
        same += (type(pipeline).__name__,)
    return [digest(same, prompt, config.seed + i) for i, prompt in enumerate(prompts)]


def protocol(config: EvalConfig, generator: Generator) -> dict[str, Any]:
    """The conditions of an evaluation, without which its figures mean nothing."""
    asked, pipeline = request_of(generator, config), generator.pipeline
    return {
        "model": config.model,
        "weights": {name: weights_digest(part) for name, part in networks(generator).items()},
        "scheduler": type(pipeline.components.get("scheduler")).__name__,
        "steps": asked.num_inference_steps,
        "guidance": asked.guidance_scale,
        "seeds": f"{config.seed} + number of the prompt",
        "fps": asked.fps,
        "size": [asked.num_frames, asked.height, asked.width],
        "intervals": "95 %: Wilson for shares, BCa bootstrap over prompts for means",
        "device": pipeline.device.type,
        "dtype": str(pipeline.dtype),
        "clips": str(kept_in(config).resolve()),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }


def sampled(
    generator: Generator, prompts: tuple[str, ...], keys: list[str], config: EvalConfig
) -> Tensor:
    """The videos of the prompts, `n t h w c` uint8; only those not kept yet are made."""
    asked = request_of(generator, config)
    with Cache(kept_in(config)) as cache:
        missing = [index for index, key in enumerate(keys) if key not in cache]
        batches = sample_videos(
            generator,
            [prompts[index] for index in missing],
            [config.seed + index for index in missing],
            asked,
            batch_size=config.batch_size,
        )
        chosen = iter(missing)
        for latents in batches:
            for video in generator.decode(latents, asked.num_frames):
                cache.add(keys[next(chosen)], torch.from_numpy(video))
        return torch.stack([cache.read(key) for key in keys])


def kept_in(config: EvalConfig) -> Path:
    """The folder of sampled videos."""
    return Path(config.clips_kept or Path(config.output) / "clips")


def read_kept(folder: Path, keys: list[str]) -> Tensor:
    """Videos that an earlier evaluation sampled, `n t h w c`.

    Raises:
        UserError: they are gone.
    """
    cache = Cache(folder)
    if missing := [key for key in keys if key not in cache]:
        raise UserError(f"{folder}: {len(missing)} of {len(keys)} videos are gone. Run it again.")
    return torch.stack([cache.read(key) for key in keys])


@torch.no_grad()
def through_vae(vae: ModelMixin, videos: Tensor) -> Tensor:
    """The videos that a VAE makes of `n t h w c` uint8 ones, of the same kind."""
    recons, device = [], ready(vae)
    for chunk in videos.split(16):
        shown = pixels(chunk.to(device)).to(vae.dtype)
        latents = vae.encode(shown).latent_dist.mean
        video = (vae.decode(latents).sample.float().clamp(-1, 1) + 1) * 127.5
        recons.append(rearrange(video, "b c t h w -> b t h w c").round().to("cpu", torch.uint8))
    return torch.cat(recons)
