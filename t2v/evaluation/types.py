"""What a metric is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from t2v.errors import UserError
from t2v.nets.aligner import Aligner
from t2v.nets.features import FrameNet, VideoNet
from t2v.world.oracle import WorldOracle

CHUNK = 16  # videos measured together

Better = Literal["higher", "lower", ""]  # "": a fact, neither good nor bad


@dataclass(frozen=True)
class Videos:
    """The videos of one row of a table; `real`, `mask` and `truths` as far as they are known.

    Raises:
        UserError: videos and real clips differ in size or number.
    """

    video: Tensor  # n t h w c, uint8
    prompts: tuple[str, ...]
    fps: float
    real: Tensor | None = None  # the clip each prompt describes, of the same shape
    mask: Tensor | None = None  # how far things cover each pixel of it, n t h w, uint8
    others: Tensor | None = None  # real clips of other scenes, which sets are compared with
    truths: tuple[dict[str, Any], ...] | None = None

    def __post_init__(self) -> None:
        if self.real is not None and self.real.shape != self.video.shape:
            raise UserError(
                f"The videos are {sized(self.video)}, the real clips {sized(self.real)}. "
                "Both must have the same number, frames and size; resize one of them."
            )

    def __len__(self) -> int:
        return len(self.video)

    def showing(self, video: Tensor) -> Videos:
        """Other videos for the same prompts."""
        return replace(self, video=video)

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Videos and real clips, a few at a time."""
        assert self.real is not None
        yield from zip(self.video.split(CHUNK), self.real.split(CHUNK), strict=True)


@dataclass(frozen=True)
class Column:
    """One value a video, `n`, nan where it is not asked; what better is; what measured it."""

    values: Tensor
    better: Better
    method: str
    is_share: bool = False  # right or wrong, 1 or 0: its mean is a share
    is_part: bool = False  # a part of a whole, from 0 to 1
    off: Tensor | None = None  # n, bool: off the scale, so nan: it was asked and is not known
    texts: tuple[str, ...] = ()  # what each value was read from, to be shown beside it


@dataclass(frozen=True)
class Figure:
    """One value of all videos together, with its 95 % interval where one is known."""

    value: float
    low: float
    high: float
    n: int
    better: Better
    method: str


@dataclass(frozen=True)
class NotRun:
    """A metric that was not run, and why; never a number."""

    reason: str


@dataclass(frozen=True)
class Teller:
    """`say` captions a video `t h w c` uint8, once or frame by frame; `compare` grades texts."""

    name: str
    say: Callable[[Tensor], list[str]]
    compare: Callable[[str, Sequence[str]], Tensor]


@dataclass(frozen=True)
class Nets:
    """What measures a model; None: none was named."""

    strides: tuple[int, int] = (8, 4)  # of the model's VAE: pixels and frames
    perceptual: FrameNet | None = None
    features: VideoNet | None = None
    aligners: tuple[Aligner, ...] = ()
    oracle: WorldOracle | None = None
    teller: Teller | None = None


Findings = dict[str, Column | Figure | NotRun]


def sized(video: Tensor) -> str:
    """`8 of 17 frames 64x64`."""
    n, t, h, w, _ = video.shape
    return f"{n} of {t} frames {h}x{w}"


def at_least(videos: Tensor, count: int, what: str) -> None:
    """Raise UserError where there are too few videos for a metric."""
    if len(videos) < count:
        raise UserError(f"{what} needs at least {count} videos, there are {len(videos)}.")


def still_copy(video: Tensor) -> Tensor:
    """The first frame over and over: a video that is perfectly consistent and shows nothing."""
    return video[:, :1].expand_as(video)


def blurred_copy(video: Tensor, size: int = 5) -> Tensor:
    """Every frame under a mean of `size` x `size` pixels."""
    n = len(video)
    frames = video.flatten(0, 1).movedim(-1, 1).float()
    pad = size // 2
    padded = torch.nn.functional.pad(frames, (pad, pad, pad, pad), mode="replicate")
    soft = torch.nn.functional.avg_pool2d(padded, size, 1)
    return soft.movedim(1, -1).round().to(torch.uint8).unflatten(0, (n, -1))
