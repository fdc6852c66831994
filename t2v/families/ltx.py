"""LTX-Video, whose transformer takes latents as a row of tokens."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from t2v.families.record import Family, spatial, temporal, with_pictures
from t2v.pipelines.generator import Request


def unpack(pipeline: DiffusionPipeline, latents: Tensor, request: Request) -> Tensor:
    """Tokens `b n d` as `b c t h w`, as which some calls give them at their end."""
    if latents.ndim == 5:
        return latents
    assert request.num_frames and request.height and request.width
    scale = spatial(pipeline)
    return pipeline._unpack_latents(
        latents,
        -(-(request.num_frames - 1) // temporal(pipeline)) + 1,
        request.height // scale,
        request.width // scale,
        pipeline.transformer_spatial_patch_size,
        pipeline.transformer_temporal_patch_size,
    )


def denormalize(pipeline: DiffusionPipeline, latents: Tensor) -> Tensor:
    """Latents with each channel's mean and spread, which the VAE keeps as buffers."""
    vae = pipeline.vae
    return pipeline._denormalize_latents(
        latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor
    )


def decode(pipeline: DiffusionPipeline, latents: Tensor) -> dict[str, Any]:
    """The noise level that later VAEs are told: 0, as in a call that names none."""
    is_told = pipeline.vae.config.timestep_conditioning
    return {"temb": torch.zeros(len(latents)).to(latents) if is_told else None}


LTX = Family(
    name="LTX-Video",
    pipelines=("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline"),
    fps=25.0,
    source="frame_rate of the call in diffusers and of github.com/Lightricks/LTX-Video",
    multiple=lambda _: 32,
    rate="frame_rate",
    refuses=lambda _: frozenset({"strength"}),  # how surely a picture is kept
    shares=with_pictures(LTXPipeline=("LTXImageToVideoPipeline", "LTXConditionPipeline")),
    unpack=unpack,
    denormalize=denormalize,
    decode=decode,
)
LTX_2 = Family(
    name="LTX-2",
    pipelines=("LTX2Pipeline", "LTX2ImageToVideoPipeline"),
    fps=24.0,
    source="frame_rate of the call in diffusers",
    multiple=lambda _: 32,
    usual=lambda _: {"num_frames": 121},
    rate="frame_rate",
    shares=with_pictures(LTX2Pipeline=("LTX2ImageToVideoPipeline",)),
    resumes=False,
    why="sound is made with the pictures, by a scheduler of its own that begins anew in each call",
)
