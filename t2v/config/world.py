"""The settings of the world and of its judgement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from t2v.config.checks import at_least_one
from t2v.config.data import ClipsConfig
from t2v.errors import UserError


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
    start_from: str | None = None  # make=text: a folder whose tokenizer and encoder learn on
    split: Literal["train", "heldout"] = "train"
    num_frames: int = 17
    height: int = 64
    width: int = 64
    fps: int = 8
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        at_least_one(self, "count", "num_frames", "height", "width", "fps", "workers")
        at_least_one(self, "steps", "batch_size")
        if self.make == "oracle" and not self.data:
            raise UserError("make=oracle learns from clips: add data=FOLDER, made by `t2v world`.")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """`t2v eval`: judge a pipeline on prompts of the world, or on captions of real clips."""

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a hub id
    output: str
    oracle: str | None = None  # folder of `t2v world make=oracle`: asks about held-out prompts
    count: int = 512  # of them
    data: str | None = None  # real clips: asks which film a drawn video is nearest to
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    held_out: int = 4  # of data: the last clips, whose captions are drawn
    draws: int = 8  # videos of each caption
    seed: int = 0
    num_inference_steps: int | None = None  # None: what the model was saved with
    guidance_scale: float | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        at_least_one(self, "count", "batch_size", "held_out", "draws")
        if (self.oracle is None) == (self.data is None):
            raise UserError(
                f"oracle={self.oracle} data={self.data}: give oracle=FOLDER to judge prompts of "
                "the world, or data=MANIFEST to judge captions of real clips."
            )
