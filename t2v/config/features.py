"""The settings of what looks inside the denoiser: probes of its features, maps of its attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t2v.config.checks import at_least_one
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """`t2v eval probe`: find things in clips by a linear head on features of the denoiser."""

    model: str = "t2v-tiny"  # the embedded model, or a pipeline folder of ours
    data: str  # folder of `t2v world`, whose clips and masks the heads are fitted to
    test: str  # another folder of `t2v world`, such as of split=heldout, whose things are found
    count: int = 96  # clips of each, at most, the first ones
    time: float = 0.3  # how far the clips are noised, from 0 (not at all) to 1 (noise alone)
    layers: tuple[int, ...] = ()  # blocks whose outputs are probed, each alone; empty: all
    prompts: bool = True  # tell the denoiser the clips' captions; false: an empty prompt
    seed: int = 0  # of the noise; clip i takes seed + i
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of the weights

    def __post_init__(self) -> None:
        at_least_one(self, "count")
        check_time("time", self.time)


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """`t2v eval words`: which word of its prompt moves which region of a film."""

    video: str  # film of ours, whose recipe has its prompt, or one with X.txt beside it
    # of the prompt; each gets a film, X-WORD.mp4, of where it is looked for; empty: X-words.json
    # and X-words.png tell of every word which region it moves
    words: tuple[str, ...] = ()
    model: str = "t2v-tiny"  # the embedded model, or a pipeline folder of ours
    height: int | None = None  # pixels that the model sees; null: the model's own
    width: int | None = None  # pixels that the model sees; null: the model's own
    layers: tuple[int, ...] = ()  # blocks whose cross-attention is averaged; empty: all
    times: tuple[float, ...] = (0.3, 0.5, 0.7)  # how far the film is noised, averaged too
    seed: int = 0  # of the noise
    overwrite: bool = False  # replace the files
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of the weights

    def __post_init__(self) -> None:
        if not self.times:
            raise UserError("times=[]: name at least one, as times=[0.5].")
        if self.layers and not self.words:
            raise UserError(
                f"layers={list(self.layers)}: chooses among maps of attention, which words=[ball] "
                "asks for. Name words, or leave it out."
            )
        for time in self.times:
            check_time("times", time)


def check_time(name: str, time: float) -> None:
    """Raise `UserError` where a time is not one between a film and noise."""
    if not 0 <= time <= 1:
        raise UserError(f"{name}={time:g}: give times from 0 (the film itself) to 1 (noise alone).")
