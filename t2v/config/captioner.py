"""The settings of training a captioner."""

from __future__ import annotations

from dataclasses import dataclass, field

from t2v.config.checks import at_least_one, not_negative
from t2v.config.data import ClipsConfig
from t2v.config.training import OptimConfig, TrainConfig
from t2v.errors import UserError

BYTES = 256 + 3  # tokens that any text can be spelled with, and the marks around it


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The network that puts into words what the encoder sees."""

    width: int = 128  # width of the transformer layers
    layers: int = 2  # transformer layers
    heads: int = 4  # attention heads
    dropout: float = 0.0  # share of values left out while training
    vocabulary: int = 1024  # most tokens of the tokenizer that is trained on the captions
    max_tokens: int = 256  # longest caption, in tokens

    def __post_init__(self) -> None:
        at_least_one(self, "width", "layers", "heads")
        if self.width % self.heads:
            raise UserError(f"width={self.width} is no multiple of heads={self.heads}.")
        if self.vocabulary < BYTES:
            raise UserError(f"vocabulary={self.vocabulary}: {BYTES} are needed to spell any text.")
        if self.max_tokens < 8:
            raise UserError(f"max_tokens={self.max_tokens}: give at least 8.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout}: a share from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(TrainConfig):
    """`t2v train-captioner`: train a model that describes videos and test it."""

    model: DecoderConfig = field(default_factory=DecoderConfig)
    data: str  # a folder of `t2v world`, a manifest, or a folder of media with captions
    test: str | None = None  # captioned clips of the final test; null: the held-out ones
    # folder of the `t2v scorer` whose video tower the captioner sees with; world-scorer comes with
    # t2v and knows its world alone
    encoder: str = "world-scorer"
    encoder_lr: float = 0.0  # learning rate of that tower; 0 keeps it and is many times as fast
    # text encoder that the final test compares captions by (EntityScore), of a pipeline (t2v-tiny)
    # or of transformers; null: by words alone
    sentences: str | None = None
    count: int = 8192  # clips read, at most; one takes 200 kB of memory
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(warmup_steps=20))
    steps: int = 1000
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "count", "held_out")
        not_negative(self, "encoder_lr")
        if self.clips != ClipsConfig():
            raise UserError(
                "clips.*: the captioner takes every clip at one size and length. Omit it."
            )
