"""The settings a model is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Keywords of `AutoencoderKLT2V`; the defaults build the embedded model's VAE."""

    in_channels: int = 3
    latent_channels: int = 16
    patch_size: tuple[int, int, int] = (4, 4, 4)  # t h w pixels folded into channels by the stem
    block_out_channels: tuple[int, ...] = (96, 192)
    layers_per_block: int = 1
    decoder_layers_per_block: int = 1
    temporal_downsample: tuple[bool, ...] = (False,)  # one per step between two blocks
    spatial_downsample: tuple[bool, ...] = (True,)
    resample_taps: int = 1  # frames the resampling convolutions see; 1 is cheapest
    norm: Literal["rms", "group"] = "rms"
    mid_block: bool = False
    mid_attention: bool = False
    quant_conv: bool = False  # 1x1x1 convolutions around the latents, as inflated image VAEs have
    linear_shortcut: bool = True  # a linear path from pixels to latents and back, PCA-initialised

    def __post_init__(self) -> None:
        steps = len(self.block_out_channels) - 1
        if not len(self.temporal_downsample) == len(self.spatial_downsample) == steps:
            raise UserError(
                f"block_out_channels={list(self.block_out_channels)} has {steps} steps between "
                f"blocks; temporal_downsample and spatial_downsample need {steps} values each."
            )
        if self.patch_size[1] != self.patch_size[2]:
            raise UserError(
                f"patch_size={list(self.patch_size)} (frames, height, width): "
                "height and width must be equal."
            )
        if self.mid_attention and not self.mid_block:
            raise UserError("mid_attention=true sits in the middle block: set mid_block=true too.")


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Keywords of `T2VTransformer3DModel`; the defaults build the embedded model's transformer."""

    attention: Literal["full", "factorized"] = "full"
    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 6
    attention_head_dim: int = 64
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 192
    freq_dim: int = 256
    ffn_dim: int = 1152
    num_layers: int = 5
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads", "rms_norm", "none"] = "rms_norm_across_heads"
    eps: float = 1e-6
    rope_theta: float = 100.0
    rope_max_seq_len: int = 1024
    pooled_text: bool = True  # text summed over its tokens also steers the modulation
    sincos_positions: bool = True  # fixed sinusoids beside the rotary, relative positions

    def __post_init__(self) -> None:
        if self.attention_head_dim < 1 or self.attention_head_dim % 2:
            raise UserError(
                f"attention_head_dim={self.attention_head_dim}: it must be even, as rotary "
                "positions turn channels in pairs."
            )
        width = self.num_attention_heads * self.attention_head_dim
        if (
            self.sincos_positions and width % 16
        ):  # a quarter is time's, each half of the rest space's
            raise UserError(
                f"num_attention_heads={self.num_attention_heads} * attention_head_dim="
                f"{self.attention_head_dim} is a width of {width}, and sincos_positions=true takes "
                f"multiples of 16. Nearest: {max(width // 16, 1) * 16}. Or sincos_positions=false."
            )
