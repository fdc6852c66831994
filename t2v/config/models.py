"""The settings a model is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from t2v.errors import UserError

QuantizerName = Literal["none", "vq", "lfq", "fsq"]
# levels of each channel by the size of the table (arXiv 2309.15505, table 1)
FSQ_LEVELS: dict[int, tuple[int, ...]] = {
    64: (8, 8),
    240: (8, 6, 5),
    1000: (8, 5, 5, 5),
    4375: (7, 5, 5, 5, 5),
    15360: (8, 8, 8, 6, 5),
    64000: (8, 8, 8, 5, 5, 5),
}
MOST_CODES = 1 << 16


def check_codebook(quantizer: QuantizerName, codebook_size: int) -> None:
    """Raise `UserError` for a table of codes that a quantizer of that kind cannot have."""
    takes = {
        "none": "",
        "vq": f"2 to {MOST_CODES}",
        "lfq": f"powers of 2, from 2 to {MOST_CODES}",
        "fsq": f"{', '.join(map(str, FSQ_LEVELS))}",
    }
    fits = {
        "none": True,
        "vq": 2 <= codebook_size <= MOST_CODES,
        "lfq": 2 <= codebook_size <= MOST_CODES and not codebook_size & (codebook_size - 1),
        "fsq": codebook_size in FSQ_LEVELS,
    }
    if quantizer not in takes:
        raise UserError(f"quantizer={quantizer!r} is unknown. Choose among {', '.join(takes)}.")
    if not fits[quantizer]:
        raise UserError(
            f"codebook_size={codebook_size} with quantizer={quantizer}: give {takes[quantizer]}."
        )


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Keywords of `AutoencoderKLT2V`; the defaults build the embedded model's VAE."""

    in_channels: int = 3  # channels of the video: red, green, blue
    latent_channels: int = 16  # channels of the latents
    patch_size: tuple[int, int, int] = (4, 4, 4)  # frames, height, width folded into channels
    block_out_channels: tuple[int, ...] = (96, 192)  # channels of each block
    layers_per_block: int = 1  # residual layers of each encoder block
    decoder_layers_per_block: int = 1  # residual layers of each decoder block
    temporal_downsample: tuple[bool, ...] = (False,)  # halve time between two blocks, one a step
    spatial_downsample: tuple[bool, ...] = (True,)  # halve height and width between two blocks
    resample_taps: int = 1  # frames the resampling convolutions see; 1 is cheapest
    norm: Literal["rms", "group"] = "rms"  # normalisation of the layers
    mid_block: bool = False  # a block at the lowest resolution
    mid_attention: bool = False  # spatial attention within mid_block
    quant_conv: bool = False  # 1x1x1 convolutions around the latents, as inflated image VAEs have
    linear_shortcut: bool = True  # a linear path from pixels to latents and back, PCA-initialised
    # what makes codes of a finite table of the latents, for token generators: learned vectors (vq),
    # signs of the channels (lfq) or their levels (fsq); none: latents stay continuous
    quantizer: QuantizerName = "none"
    codebook_size: int = 4096  # codes in the table: 2^12 is 12 bits for each latent place

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
        check_codebook(self.quantizer, self.codebook_size)


MOST_TOKENS = 1024  # that are learned beside a text


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Keywords of `T2VTransformer3DModel`; the defaults build the embedded model's transformer."""

    ONE_OR_MORE: ClassVar[tuple[str, ...]] = ("attention",)

    # who attends to whom, one word or several that the layers take in turn: full; factorized
    # (within each frame, then along time); factorized_heads; window (window:-1x4x4: all frames of
    # 4x4 places); axial; strided, fixed (strided:64: their stride); message; roll; swap; causal and
    # causal_axial, for objective=autoregressive
    attention: tuple[str, ...] = ("full",)
    patch_size: tuple[int, int, int] = (1, 2, 2)  # latent frames, height, width of one token
    num_attention_heads: int = 6  # heads; width = heads * attention_head_dim
    attention_head_dim: int = 64  # channels of a head, even
    in_channels: int = 16  # channels the transformer reads: latents, and conditions beside them
    out_channels: int = 16  # channels it predicts: those of the VAE's latents
    text_dim: int = 192  # width of the text embeddings
    freq_dim: int = 256  # width of the sinusoids of the time
    ffn_dim: int = 1152  # width of the feed-forward layers
    num_layers: int = 5  # transformer blocks
    cross_attn_norm: bool = True  # normalise before cross-attention
    # normalisation of queries and keys: over the width, per head, or none
    qk_norm: Literal["rms_norm_across_heads", "rms_norm", "none"] = "rms_norm_across_heads"
    eps: float = 1e-6  # added to variances
    rope_theta: float = 100.0  # base of the rotary frequencies
    rope_max_seq_len: int = 1024  # longest axis the rotary positions know
    pooled_text: bool = True  # also modulate by the sum of the text embeddings
    sincos_positions: bool = True  # add fixed sinusoids, absolute positions beside the rotary ones
    # known frames: none, as tokens with a time of their own, or as channels beside the noisy ones
    conditioning: Literal["none", "tokens", "channels"] = "none"
    picture_tokens: bool = False  # pictures at any place, as tokens beside those of the video
    references: int = 0  # of the pictures, the most that show the subjects and are no frames
    # of a student, which `t2v distill` makes: the numbers of steps that it makes videos in
    distilled_steps: tuple[int, ...] = ()
    # tokens, learned from all of them, that the middle blocks compute in their place; 0: all tokens
    learned_tokens: int = 0
    whole_blocks: tuple[int, int] = (2, 1)  # with learned_tokens: first and last that compute all
    # tokens that are learned beside the text (`t2v finetune method=memory`): at the end of what the
    # attention to it sees in each block
    memory_tokens: int = 0
    prefix_tokens: int = 0  # likewise (`method=embedding`): before the embedded prompt
    # of these (`method=motion`), latent frames and tokens of each that the frame sees alone, and
    # the tokens of an empty prompt, which goes without
    frame_tokens: tuple[int, int, int] = (0, 0, 0)
    # of a model of codes (objective=masked or autoregressive): those of the VAE's table, whose
    # scores are made of out_channels features of each place; 0: it is none
    codebook_size: int = 0

    def __post_init__(self) -> None:
        for name in ("memory_tokens", "prefix_tokens"):
            if not 0 <= (count := getattr(self, name)) <= MOST_TOKENS:
                raise UserError(f"{name}={count}: it must be from 0 to {MOST_TOKENS}.")
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


SCALES = (2, 4)  # times that an upscaler can enlarge


@dataclass(frozen=True, kw_only=True)
class UpscalerConfig:
    """Keywords of `VideoUpscaler`; the defaults build the embedded model's upscaler."""

    scale: int = 4  # times as high and as wide: 2 or 4
    width: int = 48  # channels at the clip's own size; twice as many at half of it
    # residual blocks at the clip's own size, at half of it, and at its own size again
    layers: tuple[int, int, int] = (1, 4, 2)
    # share of each neighbouring frame that is mixed into a frame: takes flicker away, and a little
    # of what moves; 0: none
    steadiness: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.steadiness <= 0.25:
            raise UserError(f"steadiness={self.steadiness}: it must be from 0 to 0.25.")
        if self.scale not in SCALES:
            raise UserError(f"scale={self.scale}: an upscaler enlarges 2 or 4 times.")
        if self.width < 4 or self.width % 4:
            raise UserError(
                f"width={self.width}: pixels are shuffled out of the channels, so it must be a "
                f"multiple of 4. Nearest: {max(4, round(self.width / 4) * 4)}."
            )
        if min(self.layers) < 1:  # a folder that says 0 is refused as damaged
            raise UserError(f"layers={list(self.layers)}: give three numbers of at least 1.")
