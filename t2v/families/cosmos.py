"""Cosmos 1, Predict2 and Predict2.5."""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from t2v.families.record import Family, by_mean_and_spread, patches


def denormalize(pipeline: DiffusionPipeline, latents: Tensor) -> Tensor:
    """Latents with the mean and spread of each channel, of Cosmos 1 also of each frame."""
    config, unit = pipeline.vae.config, pipeline.scheduler.config.sigma_data
    if config.latents_mean is None:
        return latents / unit
    shape = 1, latents.shape[1], -1, 1, 1
    mean, spread = (
        torch.tensor(each).view(shape)[:, :, : latents.shape[2]].to(latents)
        for each in (config.latents_mean, config.latents_std)
    )
    return latents * spread / unit + mean


COSMOS = Family(
    name="Cosmos 1",
    pipelines=("CosmosTextToWorldPipeline", "CosmosVideoToWorldPipeline"),
    fps=30.0,
    source="fps of the call in diffusers",
    multiple=patches,
    needs=("torchvision",),
    rate="fps",
    denormalize=denormalize,
)
COSMOS_2 = Family(
    name="Cosmos Predict2",
    pipelines=("Cosmos2VideoToWorldPipeline",),
    fps=16.0,
    source="fps of the call in diffusers",
    multiple=patches,
    needs=("torchvision",),
    rate="fps",
    denormalize=denormalize,
)
COSMOS_25 = Family(
    name="Cosmos Predict2.5",
    pipelines=("Cosmos2_5_PredictBasePipeline",),
    fps=16.0,
    source="the example of the pipeline in diffusers",
    multiple=patches,
    needs=("torchvision",),
    denormalize=by_mean_and_spread,
)
