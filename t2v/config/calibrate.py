"""The settings of measuring what a model may leave out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t2v.config.caching import cache_of
from t2v.config.checks import at_least_one
from t2v.errors import UserError

LEAST_COUNT = 4  # prompts from which a bound is worth its name


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """`t2v calibrate MODEL`: what each way of leaving work out costs and brings."""

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a Hub id
    # JSON file of the table; null: acceleration.json in the model's folder
    output: str | None = None
    # file with one prompt a line; null: scenes of the world for the embedded model and its
    # student, else those of t2v/evaluation/suites
    prompts: str | None = None
    count: int = 8  # prompts that are measured, from 4 on: more of them give closer bounds
    seed: int = 0  # of the first prompt; prompt i takes seed + i
    negative_prompt: str = ""  # what the videos should not show
    height: int | None = None  # pixels; null: the model's own
    width: int | None = None  # pixels; null: the model's own
    num_frames: int | None = None  # frames of the video; null: the model's own
    num_inference_steps: int | None = None  # steps of the exact video; null: the model's own
    guidance_scale: float | None = None  # weight of the prompt, 1: no guidance; null: the model's
    # caches to measure beside the usual ones, as cache= of `t2v sample` has them; of mag the ratios
    # are fitted
    caches: tuple[str, ...] = ()
    # prompts of the suite world that `t2v eval compare` judges the fastest settings by, beside the
    # exact videos; 0: none
    quality: int = 0
    judged: int = 4  # settings that are judged so: the fastest of those that no faster one betters
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of the weights

    def __post_init__(self) -> None:
        if self.count < LEAST_COUNT:
            raise UserError(
                f"count={self.count}: a bound for unseen prompts takes at least {LEAST_COUNT}."
            )
        if self.quality < 0:
            raise UserError(f"quality={self.quality}: it must be 0 or more.")
        at_least_one(self, "judged")
        for each in self.caches:
            cache_of(each)
        if self.output is not None and not self.output.endswith(".json"):
            raise UserError(f"output={self.output}: give a name that ends in .json.")
