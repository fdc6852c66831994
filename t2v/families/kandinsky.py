"""Kandinsky 5 Video, of text and of pictures."""

from __future__ import annotations

from dataclasses import replace

from diffusers import DiffusionPipeline
from einops import rearrange
from torch import Tensor

from t2v.families.record import Family, by_factor, channels, patches
from t2v.pipelines.generator import Request


def unpack(pipeline: DiffusionPipeline, latents: Tensor, request: Request) -> Tensor:
    """Latents `b t h w c`, with what is known behind the channels, as `b c t h w`."""
    return rearrange(latents[..., : channels(pipeline)], "b t h w c -> b c t h w")


KANDINSKY = Family(
    name="Kandinsky 5",
    pipelines=("Kandinsky5T2VPipeline",),
    fps=24.0,
    source="README of github.com/kandinskylab/kandinsky-5",
    multiple=patches,
    unpack=unpack,
    denormalize=by_factor,
)
KANDINSKY_I2V = replace(
    KANDINSKY,
    name="Kandinsky 5 I2V",
    pipelines=("Kandinsky5I2VPipeline",),
    shortest=17,  # its call fits the first four latent frames to those behind them
)
