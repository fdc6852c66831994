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


@torch.no_grad()
def frame_latents(vae: ModelMixin, latents: Tensor, frames: Tensor) -> Tensor:
    """Normalised latents of single frames of videos, each encoded alone, `b c k h w`.

    The frames are decoded from the latents, so training needs no pixels beside its cache.

    Args:
        latents: of the videos, normalised, `b c t h w`.
        frames: the numbers of the frames, `b k`.
    """
    found = []
    for video, numbers in zip(latents.split(1), frames.tolist(), strict=True):
        z = denormalize_latents(video, vae.config).to(vae.dtype)
        pixels = vae.decode(z, return_dict=False)[0].clamp(-1, 1)  # 1 c t h w
        chosen = rearrange(pixels[0, :, numbers], "c k h w -> k c 1 h w")
        encoded = vae.encode(chosen).latent_dist.mode()
        encoded = normalize_latents(encoded.to(latents.dtype), vae.config)
        found.append(rearrange(encoded, "k c 1 h w -> 1 c k h w"))
    return torch.cat(found)


def _spread(config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and divisor of every channel, each `c 1 1 1`."""
    mean, std = torch.tensor(config["latents_mean"]), torch.tensor(config["latents_std"])
    return rearrange(mean, "c -> c 1 1 1"), rearrange(std, "c -> c 1 1 1")
