"""The settings of benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from t2v.config.checks import at_least_one
from t2v.config.retired import ANY_VALUE, Retired
from t2v.errors import UserError


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
        if self.warmup < 0 or self.repeats < 1:
            raise UserError(
                f"warmup={self.warmup} repeats={self.repeats}: at least 0 and at least 1."
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
