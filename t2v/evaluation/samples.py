"""The videos of a model for a suite, drawn once and kept by recipe."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from t2v.config.evaluation import EvalConfig
from t2v.data.cache import Cache, weights_digest
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.io.hashes import digest
from t2v.models.device import ready
from t2v.pipelines.t2v import T2VPipeline

logger = logging.getLogger(__name__)


def recipes(pipeline: T2VPipeline, prompts: tuple[str, ...], config: EvalConfig) -> list[str]:
    """A hash of all that makes each video; prompt i is drawn with seed + i."""
    parts = (pipeline.transformer, pipeline.text_encoder, pipeline.vae)
    model = [weights_digest(part) for part in parts]
    rules = sorted((name, str(value)) for name, value in pipeline.scheduler.config.items())
    saved = [pipeline.config[name] for name in ("height", "width", "num_frames")]
    steps = config.num_inference_steps or pipeline.config.num_inference_steps
    scale = pipeline.config.guidance_scale
    if config.guidance_scale is not None:
        scale = config.guidance_scale
    same: tuple[object, ...] = (model, rules, saved, steps, float(scale))
    if pipeline.device.type != "cpu":  # another device sums in another order
        same += (pipeline.device.type,)
    return [digest(same, prompt, config.seed + i) for i, prompt in enumerate(prompts)]


def draw(
    pipeline: T2VPipeline, prompts: tuple[str, ...], keys: list[str], config: EvalConfig
) -> Tensor:
    """The videos of the prompts, `n t h w c` uint8; only those not kept yet are made."""
    with Cache(kept_in(config)) as cache:
        missing = [index for index, key in enumerate(keys) if key not in cache]
        pipeline.set_progress_bar_config(disable=True)
        bar = tqdm(range(0, len(missing), config.batch_size), unit="batch", disable=None)
        for first in bar:
            if bar.disable:  # no terminal
                logger.info("drawing %d of %d", first + 1, len(missing))
            chosen = missing[first : first + config.batch_size]
            frames = pipeline(
                [prompts[index] for index in chosen],
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                generator=[torch.Generator().manual_seed(config.seed + i) for i in chosen],
                output_type="np",
            ).frames
            videos = torch.from_numpy(np.round(frames * 255).astype(np.uint8))
            for index, video in zip(chosen, videos, strict=True):
                cache.add(keys[index], video)
        return torch.stack([cache.read(key) for key in keys])


def kept_in(config: EvalConfig) -> Path:
    """The folder of drawn videos."""
    return Path(config.clips_kept or Path(config.output) / "clips")


def read_kept(folder: Path, keys: list[str]) -> Tensor:
    """Videos that an earlier evaluation drew, `n t h w c`.

    Raises:
        UserError: they are gone.
    """
    cache = Cache(folder)
    if missing := [key for key in keys if key not in cache]:
        raise UserError(f"{folder}: {len(missing)} of {len(keys)} videos are gone. Run it again.")
    return torch.stack([cache.read(key) for key in keys])


@torch.no_grad()
def through_vae(pipeline: T2VPipeline, videos: Tensor) -> Tensor:
    """What the VAE makes of `n t h w c` uint8 videos, of the same kind."""
    recons, device = [], ready(pipeline.vae)
    for chunk in videos.split(16):
        shown = pixels(chunk.to(device)).to(pipeline.vae.dtype)
        latents = pipeline.vae.encode(shown).latent_dist.mean
        video = (pipeline.vae.decode(latents).sample.float().clamp(-1, 1) + 1) * 127.5
        recons.append(rearrange(video, "b c t h w -> b t h w c").round().to("cpu", torch.uint8))
    return torch.cat(recons)
