"""Networks of another package, with their settings where ours have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn


class FamilyTransformer(nn.Module):
    """The transformer of a pipeline, whose own class says how it is called.

    Args:
        patch_size: latents of a token: frames, height, width.
        text_dim: width of the text that it takes.
    """

    _supports_gradient_checkpointing = True

    def __init__(self, transformer: Any, patch_size: tuple[int, int, int], text_dim: int) -> None:
        super().__init__()
        self.inner = transformer
        self.config = FrozenDict(
            patch_size=patch_size,
            num_attention_heads=transformer.config.num_attention_heads,
            attention_head_dim=transformer.config.attention_head_dim,
            num_layers=transformer.config.num_layers,
            text_dim=text_dim,
            conditioning="none",
        )

    def enable_gradient_checkpointing(self, *way: Any) -> None:
        """Let the blocks compute their activations again in the backward pass."""
        self.inner.enable_gradient_checkpointing(*way)


class FamilyVAE(nn.Module):
    """The VAE of a pipeline in the form that data and tasks read.

    Args:
        mean, spread: of each channel of its latents, by which the transformer takes them.
        temporal, spatial: frames and pixels that a latent stands for.
        patch: latents, each way, of a token of the transformer.
    """

    def __init__(
        self,
        vae: Any,
        mean: Sequence[float],
        spread: Sequence[float],
        temporal: int,
        spatial: int,
        patch: int,
    ) -> None:
        super().__init__()
        self.inner = vae
        self.config = FrozenDict(
            latent_channels=vae.config.latent_channels,
            scale_factor_temporal=temporal,
            scale_factor_spatial=spatial,
            latents_mean=list(mean),
            latents_std=list(spread),
            multiple=patch * spatial,
        )

    @property
    def device(self) -> torch.device:
        """The device it computes on."""
        return self.inner.device

    def encode(self, video: Tensor) -> AutoencoderKLOutput:
        """The distribution of the latents of clips `b c t h w` in [-1, 1]."""
        return self.inner.encode(video)
