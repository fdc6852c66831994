"""The stages of curation and their settings, one group a stage, with the source of thresholds."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from t2v.config.captions import BalanceConfig, CaptionConfig, ReportConfig, TopicsConfig
from t2v.config.checks import at_least_one
from t2v.config.retired import Retired
from t2v.errors import UserError

# Each stage and the module with its `STAGE`, in the order they run, after `probe` and `scenes`,
# which turn a file into shots. A stage's settings are the field of its name in `CurateConfig`. The
# modules are named, as those of `cli.COMMANDS` are, because they load OpenCV, and settings do not.
STAGES = {
    "quality": "t2v.curation.frames.quality",  # before motion: black is not just still
    "motion": "t2v.curation.frames.motion",
    "overlay": "t2v.curation.frames.overlay",
    "dedup": "t2v.curation.frames.dedup",
    "caption": "t2v.curation.text.caption",
    "topics": "t2v.curation.text.topics",
    "balance": "t2v.curation.text.balance",
}
ALL_STAGES = ("probe", "scenes", *STAGES)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """The conditions for a file to be analyzed at all."""

    min_side: int = 64  # pixels of the shorter side, upright and with square pixels
    min_frames: int = 2  # frames a file must have
    hdr: Literal["drop", "keep"] = "drop"  # PQ and HLG look washed out when read as SDR
    # interlaced footage: deinterlace, drop, or keep its combs
    interlaced: Literal["deinterlace", "drop", "keep"] = "deinterlace"


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """The bounds of shots; times in seconds."""

    short_side: int = 144  # pixels of the thumbnails in which motion and similarity are measured
    min_seconds: float = 1.0  # shorter shots are dropped
    max_seconds: float = 10.0  # longer shots are split
    adaptive_threshold: float = 3.0  # of PySceneDetect's AdaptiveDetector; lower finds more cuts
    min_content: float = 15.0  # least change of a cut, of the same detector
    dissolve_seconds: float = 2.0  # the longest dissolve to search for
    stitch: float = 0.9  # join shots whose two sides of a cut are more similar (Panda-70M)
    peak: float = 6.0  # a jump this many times its neighbours ends a shot (xGen-VideoSyn-1)


@dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """The similarity from which two clips are one: copies lie above .85, others below .6."""

    correlation: float = 0.75  # of their thumbnails, from which two clips are the same
    overlap: float = 0.6  # share of the shorter clip that two clips must have in common


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """The band of motion, in percent of the shorter side a second."""

    min_motion: float = 0.3  # percent of the shorter side a second; a slow stream has 1
    max_motion: float = 120.0  # percent of the shorter side a second; a shaking camera has 76
    max_frozen: float = 0.5  # share of the time in which nothing moves, at most
    max_chaos: float = 0.5  # share of the change that is not motion, at most


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Blur, exposure and blockiness; beauty only where a model is named."""

    min_sharpness: float = 2.5  # drop blurred clips; log of the variance of the Laplacian
    max_noise: float = 15.0  # drop noisy clips; standard deviation in grey levels
    min_contrast: float = 5.0  # drop flat clips; standard deviation in grey levels
    min_brightness: float = 8.0  # drop dark clips; mean grey level
    max_clipped: float = 0.6  # share of the pixels that may be fully black or white
    max_blockiness: float = 1.8  # drop compression blocks; steps on the 8x8 grid over those off it
    aesthetic_model: str = ""  # folder or Hub id of a transformers image classifier; empty: none
    min_aesthetic: float = 4.5  # least score of it, of 10 (xGen-VideoSyn-1)

    def models(self) -> list[str]:
        """The models named: folders and hub ids."""
        return [self.aesthetic_model] if self.aesthetic_model else []


@dataclass(frozen=True, kw_only=True)
class OverlayConfig:
    """The treatment of burned-in text, logos and bars; clips that cannot be cropped are dropped."""

    text: Literal["crop", "drop", "tag"] = "crop"  # burned-in text: crop it off, drop or tag clips
    logo: Literal["crop", "drop", "tag"] = "crop"  # logos in a corner
    letterbox: Literal["crop", "drop", "tag"] = "crop"  # black bars
    # second opinion on text, half a second a clip: confirms what was found and adds to it
    ocr: Literal["none", "rapidocr"] = "none"
    max_text: float = 0.004  # share of the picture below which text is ignored
    min_left: float = 0.7  # share of the picture that a crop must leave, bars not counted


@dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """`t2v curate IN -o OUT`"""

    RETIRED: ClassVar[dict[str, Retired]] = {
        "report.side": Retired("It never had an effect: leave it out.", range(1, sys.maxsize)),
    }
    # folder of footage, or one file; a table beside it may name source, licence and caption
    input: str
    output: str  # folder to write
    overwrite: bool = False  # replace files in the output that are not this command's own
    engine: Literal["local", "ray"] = "local"  # processes here, or a Ray cluster
    workers: int = 0  # processes; 0: one a core, on Ray of the whole cluster
    seconds_per_file: float = 600.0  # a file that takes longer is dropped
    memory_gb: float = 8.0  # GB; a file that needs more is dropped
    skip: tuple[str, ...] = ()  # stages to leave out, by name
    files: Literal["none", "cut", "shards"] = "none"  # also write the clips: mp4s, or WebDataset
    # also write stories.jsonl: so many kept clips that follow each other in a file are one story,
    # with a scene for each; 0: do not
    stories: int = 0
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    overlay: OverlayConfig = field(default_factory=OverlayConfig)
    dedup: DedupConfig = field(default_factory=DedupConfig)
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    topics: TopicsConfig = field(default_factory=TopicsConfig)
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.skip if name not in ALL_STAGES]:
            raise UserError(f"skip={unknown}: no such stages. Allowed: {', '.join(ALL_STAGES)}.")
        if self.stories < 0 or self.stories == 1:
            raise UserError(f"stories={self.stories}: a story has at least 2 scenes (0: none).")
        if self.workers < 0:
            raise UserError(f"workers={self.workers}: it must be at least 0 (0: one a core).")
        if min(self.seconds_per_file, self.memory_gb) <= 0:
            raise UserError(
                f"seconds_per_file={self.seconds_per_file} memory_gb={self.memory_gb}: "
                "both must be more than 0."
            )
        at_least_one(self.scenes, "short_side")
        if not 0 < self.scenes.min_seconds <= self.scenes.max_seconds:
            raise UserError(
                f"scenes.min_seconds={self.scenes.min_seconds} must be more than 0 and at most "
                f"scenes.max_seconds={self.scenes.max_seconds}."
            )
