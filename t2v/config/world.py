"""The settings of the captioned synthetic world: its clips, its text encoder, its oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from t2v.config.checks import at_least_one
from t2v.config.retired import ANY_VALUE, Retired

# all three were one command once, whose files hold the settings of all, most of them unused
MAKE = (
    "`t2v world` renders clips, `t2v world text` trains the text encoder and `t2v world oracle` "
    "trains the oracle."
)
TRAINING = Retired("It goes with `t2v world text` and `t2v world oracle`.", ANY_VALUE)
RENDERING = Retired("It goes with `t2v world`.", ANY_VALUE)
OF_CLIPS = ("split", "num_frames", "height", "width", "fps", "workers")


@dataclass(frozen=True, kw_only=True)
class WorldClipsConfig:
    """`t2v world`: render captioned clips of the synthetic world."""

    FORMERLY: ClassVar[tuple[str, ...]] = ("WorldConfig",)
    RETIRED: ClassVar[dict[str, Retired]] = {
        "make": Retired(MAKE, ("clips",)),
        **dict.fromkeys(("data", "steps", "batch_size", "lr", "start_from"), TRAINING),
    }
    output: str  # folder of shards and their manifest
    overwrite: bool = False  # replace files in the output that are not this command's own
    count: int = 1000  # clips
    # heldout: scenes with combinations of shape, colour and motion that train never shows
    split: Literal["train", "heldout"] = "train"
    num_frames: int = 17  # of each clip
    height: int = 64  # pixels
    width: int = 64  # pixels
    fps: int = 8  # frames a second
    seed: int = 0  # of the first clip; clip i is a function of seed, split and i
    workers: int = 2  # processes

    def __post_init__(self) -> None:
        at_least_one(self, "count", "num_frames", "height", "width", "fps", "workers")


@dataclass(frozen=True, kw_only=True)
class WorldTextConfig:
    """`t2v world text`: train the tokenizer and text encoder on captions of the world."""

    FORMERLY: ClassVar[tuple[str, ...]] = ("WorldConfig",)
    RETIRED: ClassVar[dict[str, Retired]] = {
        "make": Retired(MAKE, ("text",)),
        "data": Retired("It goes with `t2v world oracle`.", ANY_VALUE),
        **dict.fromkeys(OF_CLIPS, RENDERING),
    }
    output: str  # folder that gets tokenizer/ and text_encoder/
    overwrite: bool = False  # replace files in the output that are not this command's own
    count: int = 1000  # captions
    steps: int = 1000  # of training
    batch_size: int = 128  # captions a step
    lr: float = 2e-3  # learning rate at its peak
    start_from: str | None = None  # a folder whose tokenizer and text encoder learn on
    seed: int = 0  # of captions, weights and batches

    def __post_init__(self) -> None:
        at_least_one(self, "count", "steps", "batch_size")


@dataclass(frozen=True, kw_only=True)
class WorldOracleConfig:
    """`t2v world oracle`: train the classifier that reads a scene's attributes from its pixels."""

    FORMERLY: ClassVar[tuple[str, ...]] = ("WorldConfig",)
    RETIRED: ClassVar[dict[str, Retired]] = {
        "make": Retired(MAKE, ("oracle",)),
        "start_from": Retired("It goes with `t2v world text`.", ANY_VALUE),
        **dict.fromkeys(("count", *OF_CLIPS), RENDERING),
    }
    output: str  # folder of the model
    overwrite: bool = False  # replace files in the output that are not this command's own
    data: str  # folder of clips that `t2v world` rendered
    steps: int = 1000  # of training
    batch_size: int = 128  # clips a step
    lr: float = 2e-3  # learning rate at its peak
    seed: int = 0  # of weights and batches

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "batch_size")
