"""Every setting of t2v and its default; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from t2v.errors import UserError


def _at_least_one(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"{name}={getattr(config, name)}: it must be at least 1.")


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
    held_out: int = 256  # the last clips of the data, kept for validation
    start_from: str | None = None  # a checkpoint whose averaged weights a new run begins with

    def __post_init__(self) -> None:
        _at_least_one(self, "batch_size", "save_every", "validate_every", "keep_checkpoints")


@dataclass(frozen=True, kw_only=True)
class TrainVAEConfig(TrainConfig):
    """`t2v train-vae`"""

    model: VAEConfig = field(default_factory=VAEConfig)
    data: str  # folder written by `t2v world`
    train_encoder: bool = True  # false: the latents of start_from stay, only the decoder learns
    image_ratio: float = 0.1  # share of the steps that see single frames
    mse_weight: float = 10.0
    kl_weight: float = 3e-4
    l1_weight: float = 0.25
    gradient_weight: float = 3.0
    foreground_weight: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.train_encoder and self.start_from is None:
            raise UserError("train_encoder=false keeps a trained encoder: name it by start_from.")


@dataclass(frozen=True, kw_only=True)
class TrainDiTConfig(TrainConfig):
    """`t2v train`"""

    model: TransformerConfig = field(default_factory=TransformerConfig)
    data: str  # folder written by `t2v world`
    vae: str  # a VAE folder or a checkpoint of `t2v train-vae`
    text: str  # folder with tokenizer/ and text_encoder/ written by `t2v world make=text`
    objective: Literal["flow", "v", "epsilon"] = "flow"
    shift: float = 2.0  # of the times of objective=flow; the others do not use it
    attention: str = "native"  # the kernel of the training steps; samples use the default
    caption_dropout: float = 0.1
    train_text_encoder: bool = True
    text_lr: float = 2e-4
    num_inference_steps: int = 20  # what the saved pipeline does unless told otherwise
    guidance_scale: float = 3.0
    max_sequence_length: int = 64  # text tokens the transformer sees, zero rows after the last
    prompts: tuple[str, ...] = (  # drawn on the contact sheet at every validation
        "a red ball bounces on grass",
        "a blue cube spins on sand",
        "a yellow star moves left over the sea",
        "a green ring rises at night",
    )


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """`t2v world`: render captioned clips, or train the text encoder or the judge on them."""

    make: Literal["clips", "text", "oracle"] = "clips"
    output: str
    count: int = 1000  # clips, or captions for make=text
    data: str = ""  # make=oracle: a folder of clips
    steps: int = 1000  # make=text and make=oracle
    batch_size: int = 128
    lr: float = 2e-3
    split: Literal["train", "heldout"] = "train"
    num_frames: int = 17
    height: int = 64
    width: int = 64
    fps: int = 8
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        _at_least_one(self, "count", "num_frames", "height", "width", "fps", "workers")
        _at_least_one(self, "steps", "batch_size")
        if self.make == "oracle" and not self.data:
            raise UserError("make=oracle learns from clips: add data=FOLDER, made by `t2v world`.")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """`t2v eval`: judge a pipeline folder on held-out prompts of the world."""

    model: str
    output: str
    oracle: str  # folder written by `t2v world make=oracle`
    count: int = 512
    seed: int = 0
    num_inference_steps: int | None = None  # None: what the model was saved with
    guidance_scale: float | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        _at_least_one(self, "count", "batch_size")


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
    preview_every: int = 0  # steps between two preview images; 0: none
    truncate: bool = False  # cut off a prompt that is too long, instead of refusing it

    def __post_init__(self) -> None:
        for name in ("height", "width", "num_frames", "duration", "fps", "num_inference_steps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name}={value}: it must be more than 0.")
        if self.num_frames is not None and self.duration is not None:
            raise UserError(
                f"num_frames={self.num_frames} and duration={self.duration}: give one of them."
            )
        _at_least_one(self, "num_videos_per_prompt")
        if self.preview_every < 0:
            raise UserError(f"preview_every={self.preview_every}: it must be at least 0.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed}: it must be from 0 to 2^63 - 1.")
        if not self.output.endswith(".mp4"):
            raise UserError(f"output={self.output}: videos are written as .mp4; end the name so.")


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """`t2v bench`"""

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a hub id
    height: int | None = None  # None: what the model was saved with
    width: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    attention: str = "native"
    device: str = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    warmup: int = 1
    repeats: int = 5
    memory_frames: tuple[int, ...] = (33, 257)  # lengths whose VAE memory is compared
    json: str | None = None  # a file to write the figures to

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.repeats < 1:
            raise UserError(
                f"warmup={self.warmup} repeats={self.repeats}: at least 0 and at least 1."
            )


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """`t2v convert SRC DST`: a Wan pipeline folder in diffusers' layout becomes one of ours."""

    src: str
    dst: str
