"""Mochi 1."""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from t2v.families.record import Family, by_factor, patches


def denormalize(pipeline: DiffusionPipeline, latents: Tensor) -> Tensor:
    """Latents with each channel's mean and spread, where the VAE has them."""
    config = pipeline.vae.config
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return by_factor(pipeline, latents)
    spread = torch.tensor(config.latents_std).view(1, -1, 1, 1, 1).to(latents)
    mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1).to(latents)
    return latents * spread / config.scaling_factor + mean


MOCHI = Family(
    name="Mochi 1",
    pipelines=("MochiPipeline",),
    fps=30.0,
    source="save_video in github.com/genmoai/mochi",
    multiple=patches,
    usual=lambda pipeline: {"height": pipeline.default_height, "width": pipeline.default_width},
    denormalize=denormalize,
)
