"""More input channels for a trained transformer, so that it can learn to read a condition there."""

from __future__ import annotations

import torch
from torch import nn

from t2v.errors import UserError
from t2v.models.transformer import T2VTransformer3DModel


@torch.no_grad()
def widen_input(transformer: T2VTransformer3DModel, channels: int) -> None:
    """Let known frames in as `channels` more input channels, behind those `transformer` has.

    Their weights are zero, so whatever stands in them it predicts what it did, to the bit, until it
    is trained (as Emu Video adds its image, arXiv 2311.10709, 3.2). `T2VPipeline` fills them with a
    mask and latents: give the VAE's `scale_factor_temporal` and its latent channels together.

    Raises:
        UserError: fewer than one channel.
    """
    if channels < 1:
        raise UserError(f"channels={channels}: widen the input by at least one channel.")
    old = transformer.patch_embedding
    new = nn.Conv3d(
        old.in_channels + channels,
        old.out_channels,
        old.kernel_size,
        stride=old.stride,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    nn.init.zeros_(new.weight)
    new.weight[:, : old.in_channels] = old.weight
    new.bias.copy_(old.bias)
    new.requires_grad_(old.weight.requires_grad)
    transformer.patch_embedding = new.train(old.training)
    transformer.register_to_config(in_channels=new.in_channels, conditioning="channels")
