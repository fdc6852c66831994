"""The settings of making videos and of timing it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from t2v.config.checks import at_least_one
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """`t2v sample`; prompts are not settings, they come as arguments or from a file."""

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a Hub id
    # file to write, ending in .mp4; null: video.mp4, or the first of video-1.mp4, ... that is free
    output: str | None = None
    overwrite: bool = False  # replace files at the output that another command wrote
    negative_prompt: str = ""  # what the video should not show
    seed: int = 0  # of the first video; video i of a prompt takes seed + i
    height: int | None = None  # pixels; null: the model's own
    width: int | None = None  # pixels; null: the model's own
    num_frames: int | None = None  # frames of the video; null: the model's own
    duration: float | None = None  # seconds of the video, instead of num_frames
    # times as high and wide as it is made, by the model's upscaler; 1: the plain video; null: as
    # large as the upscaler makes it, if there is one
    upscale: int | None = None
    fps: float | None = None  # frames per second of the file; null: the model's own
    num_inference_steps: int | None = None  # denoising steps; null: the model's own
    guidance_scale: float | None = None  # weight of the prompt, 1: no guidance; null: the model's
    num_videos_per_prompt: int = 1  # videos of each prompt
    best_of: int = 1  # seeds tried for each video; the scorer keeps the best
    # folder of `t2v scorer`, or a CLIP of transformers; null: the embedded model's own scorer
    scorer: str | None = None
    keep_draws: bool = False  # with best_of, keep every candidate too, as X.seed-S.mp4
    attention: str = "native"  # attention backend, by diffusers' names, such as xformers
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of the weights
    sheet: bool = False  # also write one picture of all videos, X.sheet.png
    gif: bool = False  # also write each video as a GIF
    preview_every: int = 0  # steps between two preview pictures; 0: none
    truncate: bool = False  # cut a prompt that is too long instead of refusing it
    lora: str | None = None  # a LoRA file, or a folder (such as a checkpoint) that holds one
    lora_scale: float = 1.0  # strength of the LoRA; 0 is the model without it, bit for bit
    # the transformer that the LoRA is for, in a model with two (Wan 2.2 A14B)
    lora_part: Literal["transformer", "transformer_2"] = "transformer"

    def __post_init__(self) -> None:
        for name in ("height", "width", "num_frames", "duration", "fps", "num_inference_steps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name}={value}: it must be more than 0.")
        if self.num_frames is not None and self.duration is not None:
            raise UserError(
                f"num_frames={self.num_frames} and duration={self.duration}: give one of them."
            )
        at_least_one(self, "num_videos_per_prompt", "best_of")
        if self.best_of == 1 and (self.scorer is not None or self.keep_draws):
            raise UserError(
                f"scorer={self.scorer} keep_draws={self.keep_draws}: they go with best_of=N, the "
                "number of draws to choose from."
            )
        if not isfinite(self.lora_scale) or (self.lora_scale != 1 and self.lora is None):
            raise UserError(f"lora_scale={self.lora_scale}: a number, together with lora=FILE.")
        if self.lora_part != "transformer" and self.lora is None:
            raise UserError(f"lora_part={self.lora_part}: it goes together with lora=FILE.")
        if self.preview_every < 0:
            raise UserError(f"preview_every={self.preview_every}: it must be at least 0.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed}: it must be from 0 to 2^63 - 1.")
        if self.output is not None and not self.output.endswith(".mp4"):
            raise UserError(
                f"output={self.output}: videos are written as mp4. Give a name that ends in .mp4."
            )


@dataclass(frozen=True, kw_only=True)
class UpscaleConfig:
    """`t2v upscale`: a video of any length becomes 2 or 4 times as large."""

    input: str  # video to enlarge
    output: str | None = None  # mp4 to write; null: X-4x.mp4 beside the input X.mp4, if enlarged 4x
    overwrite: bool = False  # replace the output where it exists
    # folder of an upscaler, an output of `t2v train-upscaler`, a pipeline folder that holds one, or
    # the embedded model, whose upscaler knows the synthetic world alone
    upscaler: str = "t2v-tiny"
    scale: int | None = None  # times as high and wide; null: the upscaler's own
    tile: int = 128  # side of the tiles that larger frames are enlarged in, in pixels of the input
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of the weights

    def __post_init__(self) -> None:
        if self.output is not None and not self.output.endswith(".mp4"):
            raise UserError(
                f"output={self.output}: videos are written as mp4. Give a name that ends in .mp4."
            )
        if self.tile < 16 or self.tile % 2:
            raise UserError(f"tile={self.tile}: give an even number of at least 16.")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """`t2v convert SRC DST`: a Wan pipeline folder in diffusers' layout becomes one of ours."""

    src: str  # folder of a Wan pipeline in diffusers' layout
    dst: str  # folder to write, which must not exist
