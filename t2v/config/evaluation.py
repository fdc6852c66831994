"""The settings of judging models."""

from __future__ import annotations

from dataclasses import dataclass, field
from string import ascii_uppercase

from t2v.config.checks import at_least_one
from t2v.config.data import ClipsConfig
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """`t2v eval`: judge a pipeline on suites of prompts, or on captions of real clips."""

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a hub id
    output: str
    suites: tuple[str, ...] = ("world",)  # drawn or in t2v/evaluation/suites, or a file
    count: int = 512  # prompts of each suite, at most
    oracle: str | None = None  # folder of `t2v world make=oracle`: asks about attributes
    perceptual: str | None = "vae"  # net of frames: the model's own VAE, or one of transformers
    features: str | None = None  # net of videos, of transformers; None: the oracle, if there is one
    clip: str | None = None  # model of transformers with towers for videos and texts
    scorer: str | None = None  # folder of `t2v scorer`
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
    batch_size: int = 16

    def __post_init__(self) -> None:
        at_least_one(self, "count", "batch_size", "held_out", "draws", "page_videos")
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
    page_videos: int = 60
    seed: int = 0  # of the resampling

    def __post_init__(self) -> None:
        at_least_one(self, "page_videos")
        if not 2 <= len(self.runs) <= len(ascii_uppercase):
            raise UserError(
                f"runs={list(self.runs)}: name 2 to {len(ascii_uppercase)} folders of `t2v eval`."
            )


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """`t2v scorer`: train two towers that tell how well a video fits a text, and test them."""

    data: str  # a folder of `t2v world`, a manifest, or a folder of media with captions
    output: str
    text: str = "t2v-tiny"  # folder with the tokenizer and encoder to begin with
    count: int = 8192  # clips read, at most; a clip takes 200 kB of memory
    held_out: int = 256  # of them: the last ones, by which the scorer is tested
    width: int = 192
    layers: int = 4
    heads: int = 6
    dim: int = 128  # of the common space
    masked: float = 0.5  # share of a video's tokens left out while training
    unmasked_from: float = 0.8  # share of the steps after which all are seen
    steps: int = 1500
    batch_size: int = 128
    lr: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        at_least_one(self, "count", "held_out", "width", "layers", "heads", "dim")
        at_least_one(self, "steps", "batch_size")
        if self.width % self.heads:
            raise UserError(f"width={self.width} is no multiple of heads={self.heads}.")
        if not (0 <= self.masked < 1 and 0 <= self.unmasked_from <= 1):
            raise UserError(
                f"masked={self.masked} unmasked_from={self.unmasked_from}: shares from 0 to 1, and "
                "some tokens must be left."
            )
