"""The settings of training the scorer."""

from __future__ import annotations

from dataclasses import dataclass, field

from t2v.config.checks import at_least_one
from t2v.config.data import ClipsConfig
from t2v.config.training import TrainConfig
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TowersConfig:
    """The scorer's networks, but for the text encoder."""

    channels: int = 48  # channels of the first convolution
    width: int = 128  # width of the transformer layers
    layers: int = 2  # transformer layers of each tower
    heads: int = 4  # attention heads
    dim: int = 128  # dimensions of the common space of videos and texts

    def __post_init__(self) -> None:
        at_least_one(self, "channels", "width", "layers", "heads", "dim")


@dataclass(frozen=True, kw_only=True)
class ScorerConfig(TrainConfig):
    """`t2v scorer`: train a CLIP-style video-text scorer and test it."""

    model: TowersConfig = field(default_factory=TowersConfig)
    data: str  # a folder of `t2v world`, a manifest, or a folder of media with captions
    test: str | None = None  # captioned clips of the final test; null: the held-out ones
    text: str = "t2v-tiny"  # folder with the tokenizer and text encoder to start from
    text_lr: float = 2e-4  # learning rate of the text encoder; 0 keeps it as it is
    # false: the convolutions of start_from stay as they are, and a step takes half the time
    train_stem: bool = True
    count: int = 8192  # clips read, at most; one takes 200 kB of memory
    masked: float = 0.3  # share of a video's tokens left out while training
    masked_words: float = 0.0  # share of a caption's words left out while training
    unmasked_from: float = 0.6  # share of the steps after which no token or word is left out
    # hard negatives of each clip: candidates in its manifest's row that were not taken, then its
    # caption with one phrase exchanged
    wrong_captions: int = 4
    wrong_clips: float = 0.25  # share of a batch shown again shuffled or backwards, as negatives
    steps: int = 1000
    batch_size: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "count", "held_out", "wrong_captions")
        if not (self.train_stem or self.start_from):
            raise UserError(
                "train_stem=false keeps the convolutions of start_from, and none is given. Add "
                "start_from=FOLDER, or train the whole."
            )
        if self.model.width % self.model.heads:
            raise UserError(
                f"model.width={self.model.width} is no multiple of model.heads={self.model.heads}."
            )
        if self.model.channels % 8 or self.model.width % 8:
            raise UserError(
                f"model.channels={self.model.channels} model.width={self.model.width}: give "
                "multiples of 8."
            )
        for name in ("masked", "masked_words"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"{name}={getattr(self, name)}: a share from 0 to below 1, as some must be "
                    "left."
                )
        if not 0 <= self.unmasked_from <= 1:
            raise UserError(f"unmasked_from={self.unmasked_from}: a share from 0 to 1.")
        if not 0 < self.wrong_clips <= 1:
            raise UserError(
                f"wrong_clips={self.wrong_clips}: a share above 0, as some clips run wrong, to 1."
            )
        if self.clips != ClipsConfig():
            raise UserError("clips.*: the scorer takes every clip at one size and length. Omit it.")
