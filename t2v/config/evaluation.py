"""The settings of judging models."""

from __future__ import annotations

from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Literal

from t2v.config.checks import at_least_one
from t2v.config.data import ClipsConfig
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """`t2v eval`: judge a pipeline on suites of prompts, or on captions of real clips."""

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a hub id
    output: str
    overwrite: bool = False  # replace files in the output that are not this command's own
    suites: tuple[str, ...] = ("world",)  # drawn or in t2v/evaluation/suites, or a file
    count: int = 512  # prompts of each suite, at most
    oracle: str | None = None  # folder of `t2v world make=oracle`: asks about attributes
    perceptual: str | None = "vae"  # net of frames: the model's own VAE, or one of transformers
    features: str | None = None  # net of videos, of transformers; None: the oracle, if there is one
    clip: str | None = None  # model of transformers with towers for videos and texts
    scorer: str | None = None  # folder of `t2v scorer`
    captioner: str | None = None  # model of transformers that says what it sees in a video
    sentences: str | None = None  # one that compares that with the prompt; None: shared words
    training: str | None = None  # folder of clips the model learned from: is it copying?
    clips_kept: str | None = None  # folder of drawn videos, by recipe; None: output/clips
    page_videos: int = 60  # videos of each suite on the page, the worst
    data: str | None = None  # real clips: asks which film a drawn video is nearest to
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    held_out: int = 4  # of data: the last clips, whose captions are drawn
    draws: int = 8  # videos of each caption of data
    seed: int = 0
    num_inference_steps: int | None = None  # None: what the model was saved with
    guidance_scale: float | None = None
    device: str = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    batch_size: int = 16

    def __post_init__(self) -> None:
        at_least_one(self, "count", "batch_size", "held_out", "draws", "page_videos")
        if self.sentences is not None and self.captioner is None:
            raise UserError(
                f"sentences={self.sentences}: compares captions with prompts. Give captioner=MODEL."
            )
        if not self.suites:
            raise UserError("suites=[]: name at least one, for example suites=[world].")
        if self.oracle is not None and self.data is not None:
            raise UserError(
                f"oracle={self.oracle} data={self.data}: give oracle=FOLDER to judge prompts of "
                "the world, or data=MANIFEST to judge captions of real clips."
            )


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """`t2v eval compare A B ...`: how do finished evaluations differ from the first, for real?"""

    runs: tuple[str, ...]  # folders written by `t2v eval`
    output: str
    overwrite: bool = False  # replace files in the output that are not this command's own
    page_videos: int = 60
    seed: int = 0  # of the resampling

    def __post_init__(self) -> None:
        at_least_one(self, "page_videos")
        if not 2 <= len(self.runs) <= len(ascii_uppercase):
            raise UserError(
                f"runs={list(self.runs)}: name 2 to {len(ascii_uppercase)} folders of `t2v eval`."
            )
