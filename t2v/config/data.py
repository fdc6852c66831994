"""The settings of clips on their way to batches."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Literal

from t2v.config.checks import at_least_one, check_workers
from t2v.errors import UserError

SIZES = ("fps", "height", "width", "num_frames")  # that a model is saved with


Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class CurriculumStage:
    """One stage of a curriculum, from a step on; None: what `ClipsConfig` says."""

    from_step: int = 0  # first step of the stage
    resolution: int | None = None  # side of the square of a frame's area
    num_frames: int | None = None  # of the longest clips of this stage; longer ones are cut
    image_ratio: float | None = None  # share of the steps that see single frames


@dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    """The way of clips of a manifest to batches of equal shape.

    A folder of `t2v world` has a size and a rate of its own: there fps, resolution and num_frames
    stay null, and a stage may only shorten clips and mix in images.
    """

    fps: float | None = None  # frames per second the model sees; null: the saved model's
    resolution: int | None = None  # side of the square of a frame's area: 256 is 256x256, 192x336
    num_frames: int | None = None  # frames of the longest clips, 4k+1; null: the saved model's
    aspects: tuple[str, ...] = ("16:9", "4:3", "1:1", "3:4", "9:16")  # width:height of buckets
    lengths: tuple[int, ...] = ()  # frame counts of the buckets; empty: num_frames and its halves
    # which frames of a clip are read: dense: at fps from its start; sparse: spread over all of it
    sampling: Literal["dense", "sparse"] = "dense"
    max_upscale: float = 1.25  # drop footage that would have to be enlarged by more
    max_repeat: float = 1.5  # drop footage slower than fps by more than this factor
    # interlaced footage: deinterlace, drop, or keep its combs
    interlaced: Literal["deinterlace", "drop", "keep"] = "deinterlace"
    image_ratio: float = 0.0  # share of the steps that see single frames
    stages: tuple[CurriculumStage, ...] = ()  # a curriculum: {from_step, resolution, ...} for each
    cache: str | None = None  # folder of the cached latents; null: `latents` beside the manifest
    workers: int = 2  # processes that read clips, where nobody else encodes them
    seconds_per_clip: float = 120.0  # drop a clip that takes longer to read
    gigabytes_per_worker: float = 4.0  # memory, in GB, that reading one clip may take

    def __post_init__(self) -> None:
        at_least_one(self, "workers")
        for name in ("fps", "resolution", "num_frames", "seconds_per_clip", "gigabytes_per_worker"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name}={value}: it must be more than 0.")
        for name in ("max_upscale", "max_repeat"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: it must be at least 1.")
        for aspect in self.aspects:
            if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", aspect):
                raise UserError(f"aspects: {aspect!r} should be width:height, such as 16:9.")
        if not self.aspects:
            raise UserError("aspects=[]: name at least one, such as 16:9.")
        self._check_stages()

    def _check_stages(self) -> None:
        starts = [stage.from_step for stage in self.stages]
        if starts and (starts[0] != 0 or sorted(set(starts)) != starts):
            raise UserError(
                f"stages begin at the steps {starts}: the first must be 0 and each later one more."
            )
        for ratio in (self.image_ratio, *(stage.image_ratio for stage in self.stages)):
            if ratio is not None and not 0 <= ratio <= 1:
                raise UserError(f"image_ratio={ratio}: it must be from 0 to 1.")

    def filled(self, *, fps: float, height: int, width: int, num_frames: int) -> ClipsConfig:
        """Take over the sizes that a model was saved with where none are given."""
        side = round(math.sqrt(height * width))
        return replace(
            self,
            fps=self.fps if self.fps is not None else fps,
            resolution=self.resolution if self.resolution is not None else side,
            num_frames=self.num_frames if self.num_frames is not None else num_frames,
        )

    def all_stages(self) -> tuple[CurriculumStage, ...]:
        """The stages with every null filled in from here; one stage where none is given."""
        return tuple(
            CurriculumStage(
                from_step=stage.from_step,
                resolution=self.resolution if stage.resolution is None else stage.resolution,
                num_frames=self.num_frames if stage.num_frames is None else stage.num_frames,
                image_ratio=self.image_ratio if stage.image_ratio is None else stage.image_ratio,
            )
            for stage in self.stages or (CurriculumStage(),)
        )


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """`t2v encode`: read the clips of a manifest and keep their latents."""

    data: str  # a manifest (JSONL), a folder with manifest.jsonl, or a folder of x.mp4 and x.txt
    model: str  # pipeline folder, whose VAE, text encoder and sizes are used
    output: str  # folder to write
    overwrite: bool = False  # replace files in the output that are not this command's own
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    # of the encoders' forward passes; a training finds what was encoded in its own. auto: as there
    precision: Precision = "auto"
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    engine: Literal["local", "ray"] = "local"  # processes of this machine, or a Ray cluster
    # processes that each hold the encoders and read a clip at a time; null: this one
    # alone, on Ray as many as there is room for
    workers: int | None = None
    sheet_clips: int = 12  # clips on the contact sheet

    def __post_init__(self) -> None:
        check_workers(self)
        at_least_one(self, "sheet_clips")
