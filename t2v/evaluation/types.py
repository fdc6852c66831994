"""The videos that a metric is given, and the measurements it returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from t2v.errors import UserError
from t2v.evaluation.given import Given
from t2v.evaluation.joints import Joints

CHUNK = 16  # videos measured together

Kind = Literal["plain", "given", "story"]  # prompts alone, clips given in part, films of scenes
Better = Literal["higher", "lower", ""]  # "": a fact, neither good nor bad


@dataclass(frozen=True)
class Taught:
    """The videos that a teacher made of the same prompts, from the same noise.

    Args:
        name: its weights, steps and guidance, for methods.
        video: `n t h w c` uint8.
        draws: those of the other seeds, `k n t h w c`, where there are any.
    """

    name: str
    video: Tensor
    draws: Tensor | None = None


@dataclass(frozen=True)
class Videos:
    """The videos of one row of a table, with what is known of their prompts.

    Raises:
        UserError: videos and real clips differ in size or number.
    """

    video: Tensor  # n t h w c, uint8
    prompts: tuple[str, ...]
    fps: float
    real: Tensor | None = None  # the clip each prompt describes, of the same shape
    mask: Tensor | None = None  # how much things cover each pixel of it, n t h w, uint8
    others: Tensor | None = None  # real clips of other scenes, for distances between sets
    truths: tuple[dict[str, Any], ...] | None = None  # the scene of each prompt
    given: Given | None = None  # what was given of each clip
    joints: Joints | None = None  # where scenes and windows of stories begin
    scene_prompts: tuple[tuple[str, ...], ...] = ()  # of stories, what each scene is to show
    block: int | None = None  # pixels, each way, that a latent stands for; None: unknown
    draws: Tensor | None = None  # videos of the same prompts by other seeds, k n t h w c
    taught: Taught | None = None  # what they are to be like

    def __post_init__(self) -> None:
        if self.real is not None and self.real.shape != self.video.shape:
            raise UserError(
                f"The videos are {size_words(self.video)}, the real clips {size_words(self.real)}. "
                "Both must have the same number, frames and size; resize one of them."
            )

    def __len__(self) -> int:
        return len(self.video)

    @property
    def kind(self) -> Kind:
        """The kind of the suite that they are of."""
        return "story" if self.joints else "given" if self.given else "plain"

    def showing(self, video: Tensor) -> Videos:
        """Return other videos for the same prompts, whose other seeds are not known."""
        return replace(self, video=video, draws=None)

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield videos and real clips, a few at a time."""
        assert self.real is not None
        yield from zip(self.video.split(CHUNK), self.real.split(CHUNK), strict=True)


@dataclass(frozen=True)
class PerVideo:
    """One value a video, `n`, nan where the metric does not apply, and how it was measured."""

    values: Tensor
    better: Better
    method: str
    is_share: bool = False  # right or wrong, 1 or 0: its mean is a share
    is_part: bool = False  # a proportion, from 0 to 1
    off_scale: Tensor | None = None  # n, bool: it applies and cannot be measured; its value is nan
    texts: tuple[str, ...] = ()  # the text behind each value, shown beside it


@dataclass(frozen=True)
class PerSet:
    """One value of all videos together, with its 95 % interval where it has one."""

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


Measurements = dict[str, PerVideo | PerSet | NotRun]


def size_words(video: Tensor) -> str:
    """Return the size of videos in words: `8 of 17 frames 64x64`."""
    n, t, h, w, _ = video.shape
    return f"{n} of {t} frames {h}x{w}"


def at_least(videos: Tensor, count: int, what: str) -> None:
    """Raise UserError where there are too few videos for a metric."""
    if len(videos) < count:
        raise UserError(f"{what} needs at least {count} videos, there are {len(videos)}.")


def still_copy(video: Tensor) -> Tensor:
    """Return videos that repeat their first frame: perfectly consistent, and nothing happens."""
    return video[:, :1].expand_as(video)


def blurred_copy(video: Tensor, size: int = 5) -> Tensor:
    """Return videos with every frame under a mean filter of `size` x `size` pixels."""
    return torch.stack([torch.cat([_blurred(each, size) for each in v.split(32)]) for v in video])


def _blurred(frames: Tensor, size: int) -> Tensor:
    """`blurred_copy` of frames `t h w c`."""
    pad = size // 2
    padded = torch.nn.functional.pad(
        frames.movedim(-1, 1).float(), (pad, pad, pad, pad), mode="replicate"
    )
    return torch.nn.functional.avg_pool2d(padded, size, 1).movedim(1, -1).round().to(torch.uint8)
