"""The settings of what is done with files that exist: videos to enlarge, models to convert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t2v.config.sampling import VIDEOS
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class UpscaleConfig:
    """`t2v upscale`: a video of any length, or a picture, becomes 2 or 4 times as large."""

    input: str  # video or picture to enlarge
    # mp4, webm or mov to write, or png of a picture; null: X-4x.mp4 beside the input X.mp4, if
    # enlarged 4x
    output: str | None = None
    overwrite: bool = False  # replace the output where it exists
    # folder of an upscaler, an output of `t2v train-upscaler`, a pipeline folder that holds one, or
    # the embedded model, whose upscaler knows the synthetic world alone
    upscaler: str = "t2v-tiny"
    scale: int | None = None  # times as high and wide; null: the upscaler's own
    tile: int = 128  # side of the tiles that larger frames are enlarged in, in pixels of the input
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of the weights

    def __post_init__(self) -> None:
        endings = (*VIDEOS, ".png")
        if self.output is not None and not self.output.endswith(endings):
            raise UserError(
                f"output={self.output}: give a name that ends in {', '.join(VIDEOS)}, or of a "
                "picture in .png."
            )
        if self.tile < 16 or self.tile % 2:
            raise UserError(f"tile={self.tile}: give an even number of at least 16.")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """`t2v convert SRC DST`: a Wan pipeline folder in diffusers' layout becomes one of ours, or a
    LoRA file gets the names of another tool."""

    src: str  # folder of a Wan pipeline in diffusers' layout; with names, a LoRA file
    dst: str  # folder, or with names the file, to write; it must not exist
    names: Literal["comfyui", "diffusers"] | None = None  # whose names the LoRA's tensors get
