"""Every setting of t2v and its default; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Keywords of `AutoencoderKLT2V`; the defaults build the embedded model's VAE."""

    in_channels: int = 3
    latent_channels: int = 16
    patch_size: tuple[int, int, int] = (4, 4, 4)  # t h w pixels folded into channels by the stem
    block_out_channels: tuple[int, ...] = (128, 192)
    layers_per_block: int = 2
    temporal_downsample: tuple[bool, ...] = (False,)  # one per step between two blocks
    spatial_downsample: tuple[bool, ...] = (True,)
    norm: Literal["rms", "group"] = "rms"
    mid_attention: bool = False
    linear_shortcut: bool = True  # a linear path from pixels to latents and back, PCA-initialised


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Keywords of `T2VTransformer3DModel`; the defaults build the embedded model's transformer."""

    attention: Literal["full", "factorized"] = "full"
    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 4
    attention_head_dim: int = 64
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 192
    freq_dim: int = 256
    ffn_dim: int = 1024
    num_layers: int = 7
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads", "rms_norm", "none"] = "rms_norm_across_heads"
    eps: float = 1e-6
    rope_theta: float = 100.0
    rope_max_seq_len: int = 1024
    pooled_text: bool = True  # text summed over its tokens also steers the modulation


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer, schedule and weight average."""

    name: Literal["muon", "adamw"] = "muon"
    lr: float = 3e-3  # of the matrices under Muon
    adam_lr: float = 1e-3  # of everything else
    weight_decay: float = 0.0
    warmup_steps: int = 100
    decay_from: float = 0.5  # constant until this fraction of the steps, then cosine to zero
    clip_norm: float = 1.0
    ema_decay: float = 0.998


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every kind of training shares."""

    output: str
    seed: int = 0
    steps: int = 10_000
    batch_size: int = 48
    optim: OptimConfig = field(default_factory=OptimConfig)
    save_every: int = 500
    keep_checkpoints: int = 2
    validate_every: int = 500
    precision: Literal["fp32", "bf16"] = "bf16"
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class TrainVAEConfig(TrainConfig):
    """`t2v train-vae`"""

    model: VAEConfig = field(default_factory=VAEConfig)
    data: str  # folder written by `t2v world`
    kl_weight: float = 3e-4
    l1_weight: float = 0.25
    gradient_weight: float = 3.0
    foreground_weight: float = 4.0


@dataclass(frozen=True, kw_only=True)
class TrainDiTConfig(TrainConfig):
    """`t2v train`"""

    model: TransformerConfig = field(default_factory=TransformerConfig)
    data: str  # folder written by `t2v world`
    vae: str  # a VAE folder or a checkpoint of `t2v train-vae`
    text: str  # folder with tokenizer/ and text_encoder/ written by `t2v world make=text`
    objective: Literal["flow", "v", "epsilon"] = "flow"
    shift: float = 2.0
    caption_dropout: float = 0.1
    train_text_encoder: bool = True
    text_lr: float = 2e-4


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """`t2v world`: render captioned clips, or train the text encoder or the judge on them."""

    make: Literal["clips", "text", "oracle"] = "clips"
    output: str
    count: int = 1000
    split: Literal["train", "heldout"] = "train"
    num_frames: int = 17
    height: int = 64
    width: int = 64
    fps: int = 8
    seed: int = 0
    workers: int = 2


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """`t2v sample`; prompts are not settings, they come as arguments or from a file."""

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a hub id
    output: str = "video.mp4"
    negative_prompt: str = ""
    seed: int = 0
    height: int | None = None  # None: what the model was saved with
    width: int | None = None
    num_frames: int | None = None
    duration: float | None = None  # seconds, instead of num_frames
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    num_videos_per_prompt: int = 1
    attention: str = "native"
    device: str = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    sheet: bool = False
    gif: bool = False
    preview_every: int = 0
    truncate: bool = False
