"""The settings of text encoders: how one is read, and how one is trained on captions alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from t2v.config.checks import at_least_one
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The way a saved text encoder is read; as it stands, its last layer alone."""

    ONE_OR_MORE: ClassVar[tuple[str, ...]] = ("layer",)

    # layers whose outputs are averaged, from 1 on or from -1 (the last) back; 0: what enters the
    # first. One is that layer: those above it are neither computed nor saved
    layer: tuple[int, ...] = (-1,)
    whiten: bool = False  # no mean, equal variances: a linear map fitted to the captions
    width: int | None = None  # channels kept, the first ones; whitened: the strongest directions
    pooled: bool = False  # the mean of all tokens stands at the last one, the end mark
    second: str | None = None  # folder of another tokenizer and encoder, whose tokens come after

    def __post_init__(self) -> None:
        if not self.layer:
            raise UserError("text_encoder.layer=[]: give at least one, such as -1 for the last.")
        if len(set(self.layer)) != len(self.layer):
            raise UserError(f"text_encoder.layer={list(self.layer)}: name each layer once.")
        if self.width is not None and self.width < 1:
            raise UserError(f"text_encoder.width={self.width}: it must be at least 1.")

    def changes(self) -> bool:
        """Return whether the encoder is to be read otherwise than it stands."""
        return self != TextEncoderConfig()


# t5: attention; three without it: hashed n-grams, convolutions over bytes, an average
TextKind = Literal["t5", "ngrams", "bytes", "average"]


@dataclass(frozen=True, kw_only=True)
class TrainTextConfig:
    """`t2v train-text`: train a tokenizer and a text encoder on captions alone."""

    # paths that a file of settings may tell from its own folder
    BESIDE_FILE: ClassVar[tuple[str, ...]] = ("data", "start_from")

    output: str  # folder that gets tokenizer/ and text_encoder/
    overwrite: bool = False  # replace files in the output that are not this command's own
    data: str  # captions: a file x.txt, one a line, a manifest, or a folder of media
    # what is trained: t5, with attention; ngrams, hashed; bytes, by convolutions; average
    kind: TextKind = "t5"
    vocabulary: int = 8192  # most tokens of a new tokenizer; bytes have 258
    # two views of a caption that must find each other among others: simcse: two draws of dropout;
    # declutr: two spans of its words
    objective: Literal["simcse", "declutr"] = "declutr"
    dropout: float = 0.1  # share of activations dropped while it learns
    temperature: float = 0.05  # of the softmax over the captions of a batch
    elastic: bool = False  # its first layers and channels alone learn to do too (2DMSE)
    steps: int = 1000  # of training
    batch_size: int = 128  # captions a step
    lr: float = 1e-3  # learning rate at its peak
    start_from: str | None = None  # a folder whose tokenizer and text encoder learn on
    seed: int = 0  # of weights, batches, spans and dropout

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "vocabulary")
        if self.batch_size < 2:
            raise UserError(f"batch_size={self.batch_size}: others are needed to tell it from.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout}: it must be at least 0 and below 1.")
        if self.objective == "simcse" and not self.dropout:
            raise UserError("objective=simcse dropout=0: its two views would be equal. Give 0.1.")
        if not self.temperature > 0:
            raise UserError(f"temperature={self.temperature}: it must be more than 0.")
