"""The inflation of an image VAE to one of videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL

from t2v.errors import UserError


@torch.no_grad()
def inflated(kind: Any, image_vae: AutoencoderKL, temporal_downsample: Sequence[bool]) -> Any:
    """A VAE of class `kind` as `AutoencoderKLT2V.from_image_vae` says.

    Raises:
        UserError: the image VAE has parts that the class does not have.
    """
    config = image_vae.config
    widths = tuple(config.block_out_channels)
    mean, scale = config.shift_factor or 0.0, config.scaling_factor
    vae = kind(
        in_channels=config.in_channels,
        latent_channels=config.latent_channels,
        patch_size=(1, 1, 1),
        block_out_channels=widths,
        layers_per_block=config.layers_per_block,
        decoder_layers_per_block=config.layers_per_block + 1,
        temporal_downsample=tuple(temporal_downsample),
        spatial_downsample=(True,) * (len(widths) - 1),
        resample_taps=3,
        norm="group",
        mid_block=True,
        mid_attention=config.mid_block_add_attention,
        quant_conv=config.use_quant_conv,
        linear_shortcut=False,
        latents_mean=[mean] * config.latent_channels,
        latents_std=[1 / scale] * config.latent_channels,
    ).to(image_vae.device, image_vae.dtype)
    homes = {
        "quant_conv": "encoder.",
        "post_quant_conv": "decoder.",
    }  # elsewhere the same names
    weights = {
        homes.get(name.split(".")[0], "") + name: weight
        for name, weight in image_vae.state_dict().items()
    }
    known = {name: weight.shape[:2] for name, weight in vae.state_dict().items()}
    if known != {name: weight.shape[:2] for name, weight in weights.items()} or (
        config.norm_num_groups,
        config.act_fn,
    ) != (32, "silu"):
        raise UserError(
            "This image VAE cannot be inflated: it must be an AutoencoderKL of plain "
            'DownEncoderBlock2D and UpDecoderBlock2D, with norm_num_groups=32, act_fn="silu" '
            "and as many output as input channels."
        )
    for name, parameter in vae.named_parameters():
        if parameter.ndim == 5:
            parameter.zero_()
            parameter[:, :, -1] = weights[name]
        else:
            parameter.copy_(weights[name])
    return vae
