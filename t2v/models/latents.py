"""Latents: their number of channels, and their normalisation for the denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ModelMixin
from einops import rearrange
from torch import Tensor


def latent_channels(vae: ModelMixin) -> int:
    """The number of channels of a VAE's latents; ours and Wan's have different names for it."""
    return vae.config.get("latent_channels") or vae.config["z_dim"]


def normalize_latents(latents: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Latents as the denoiser takes them, each channel centred and scaled; the dtype stays.

    Args:
        latents: as the VAE encodes them, `b c t h w`.
        config: the VAE's, with `latents_mean` and `latents_std`.
    """
    mean, std = (each.to(latents) for each in _spread(config))
    return (latents - mean) / std


def denormalize_latents(latents: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Latents as the VAE decodes them, the inverse of `normalize_latents`; in float32 at least."""
    mean, std = (each.to(latents.device) for each in _spread(config))
    return latents * std + mean


def _spread(config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and divisor of every channel, each `c 1 1 1`."""
    mean, std = torch.tensor(config["latents_mean"]), torch.tensor(config["latents_std"])
    return rearrange(mean, "c -> c 1 1 1"), rearrange(std, "c -> c 1 1 1")
