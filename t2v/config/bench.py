"""The settings of benchmarks."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from t2v.config.checks import at_least_one, not_negative
from t2v.config.retired import ANY_VALUE, Retired
from t2v.errors import UserError

PeerCase = Literal["forward", "train", "decode", "encode", "pipeline"]


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """`t2v bench`: the stages of a pipeline."""

    RETIRED: ClassVar[dict[str, Retired]] = {
        "what": Retired("To time curation: t2v bench curate FOOTAGE.", neutral=("pipeline",)),
        "footage": Retired("To time curation: t2v bench curate FOOTAGE.", neutral=("",)),
    }

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a Hub id
    height: int | None = None  # pixels; null: the model's own
    width: int | None = None  # pixels; null: the model's own
    num_frames: int | None = None  # frames of the video; null: the model's own
    num_inference_steps: int | None = None  # denoising steps; null: the model's own
    attention: str = "native"  # attention backend, by diffusers' names, such as xformers
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of the weights
    warmup: int = 1  # runs before the timed ones
    repeats: int = 5  # timed runs of each stage
    memory_frames: tuple[int, ...] = (33, 257)  # lengths, in frames, whose VAE memory is measured
    json: str | None = None  # file to write the figures to
    overwrite: bool = False  # replace that file even if `t2v bench` did not write it

    def __post_init__(self) -> None:
        not_negative(self, "warmup")
        at_least_one(self, "repeats")


@dataclass(frozen=True, kw_only=True)
class BenchPeersConfig:
    """`t2v bench peers`: our networks beside diffusers' Wan classes, on the same weights."""

    # what is measured: a forward pass, a training step, the VAE's two ways, a denoising loop
    cases: tuple[PeerCase, ...] = ("forward", "train", "decode", "encode", "pipeline")
    dtypes: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")  # number formats to measure in
    dim: int = 384  # width of the transformer, in heads of 64
    layers: int = 12  # blocks of the transformer; with dim=384 it has 30M parameters
    num_frames: int = 17  # frames of the video that the transformer denoises
    height: int = 192  # pixels of that video
    width: int = 192  # pixels of that video
    text_tokens: int = 64  # tokens of the text
    vae_dim: int = 32  # width of the VAE; Wan's own has 96
    vae_frames: int = 9  # frames of the video that the VAE decodes and encodes
    vae_side: int = 64  # pixels of that video, each way
    steps: int = 2  # denoising steps of the pipeline
    rounds: int = 7  # rounds in which both sides and the probe run once
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    json: str | None = None  # file to write the figures to
    overwrite: bool = False  # replace that file even if `t2v bench` did not write it

    def __post_init__(self) -> None:
        at_least_one(self, "layers", "text_tokens", "steps", "rounds")
        for name, step, above in (
            ("dim", 64, 0),
            ("height", 16, 0),
            ("width", 16, 0),
            ("vae_side", 8, 0),
            ("num_frames", 4, 1),
            ("vae_frames", 4, 1),
            ("vae_dim", 8, 0),
        ):
            value = getattr(self, name)
            if value < above + step * (above == 0) or (value - above) % step:
                more = f" plus {above}" if above else ""
                raise UserError(f"{name}={value}: it must be a multiple of {step}{more}.")
        if not self.cases or not self.dtypes:
            raise UserError("cases= and dtypes= must each name at least one.")


@dataclass(frozen=True, kw_only=True)
class BenchAttentionConfig:
    """`t2v bench attention`: the layouts of attention over the number of tokens."""

    # layouts beside full, by the words of model.attention
    layouts: tuple[str, ...] = (
        *("factorized", "factorized_heads", "window", "axial", "strided", "fixed"),
        *("roll", "message", "swap"),
    )
    # sizes, as frames x rows x columns of tokens; 21x38x38 has 30,324 of them
    grids: tuple[str, ...] = ("5x4x4", "5x8x8", "5x16x16", "9x24x24")
    dim: int = 384  # width of the layer, in heads of 64
    dtype: Literal["fp32", "bf16"] = "fp32"  # number format
    backward: bool = False  # measure a step of training, forward and backward
    repeats: int = 5  # rounds in which every layout and the probe run once
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    json: str | None = None  # file to write the figures to
    overwrite: bool = False  # replace that file even if `t2v bench` did not write it

    def __post_init__(self) -> None:
        at_least_one(self, "repeats")
        if self.dim < 128 or self.dim % 64:
            raise UserError(f"dim={self.dim}: it must be a multiple of 64, of at least 128.")
        if not self.grids:
            raise UserError("grids=[]: name at least one size, such as 5x16x16.")
        for grid in self.grids:
            if not re.fullmatch("[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){2}", grid):
                raise UserError(
                    f"grids={grid}: a size is frames x rows x columns of tokens, such as 5x16x16."
                )


@dataclass(frozen=True, kw_only=True)
class BenchCurateConfig:
    """`t2v bench curate FOOTAGE`: curation beside decoding alone."""

    RETIRED: ClassVar[dict[str, Retired]] = {
        "what": Retired("To time a pipeline: t2v bench.", neutral=("curate",)),
    } | {
        each.name: Retired("It goes with a pipeline: t2v bench.", ANY_VALUE)
        for each in fields(BenchConfig)
        if each.name not in {"repeats", "json", "overwrite"}
    }

    footage: str  # a film or a folder of films
    repeats: int = 5  # runs, of which the fastest counts
    json: str | None = None  # file to write the figures to
    overwrite: bool = False  # replace that file even if `t2v bench` did not write it

    def __post_init__(self) -> None:
        at_least_one(self, "repeats")
