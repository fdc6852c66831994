"""The settings of the world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t2v.config.checks import at_least_one
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """`t2v world`: render captioned clips, or train the text encoder or the judge on them."""

    make: Literal["clips", "text", "oracle"] = "clips"
    output: str
    overwrite: bool = False  # replace files in the output that are not this command's own
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
