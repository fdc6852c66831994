"""The settings of the captioned synthetic world: its clips, its text encoder, its oracle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from t2v.config.checks import at_least_one, not_negative, within_range
from t2v.config.retired import ANY_VALUE, Retired
from t2v.config.text import TextKind
from t2v.errors import UserError, shortened

# all three were one command once, whose files hold the settings of all, most of them unused
MAKE = (
    "`t2v world` renders clips, `t2v world text` trains the text encoder and `t2v world oracle` "
    "trains the oracle."
)
TRAINING = Retired("It goes with `t2v world text` and `t2v world oracle`.", ANY_VALUE)
RENDERING = Retired("It goes with `t2v world`.", ANY_VALUE)
SHAPE = re.compile(r"(\d+)x(\d+)x(\d+)")
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
    # frames x height x width, as 33x48x64, instead of the three above: a shard of 256 clips takes
    # one, the next shard the next, from the first again after the last; one named twice comes twice
    shapes: tuple[str, ...] = ()
    # share of clips of several acts: from one to the next the motion, the colour or the place
    # changes, and the manifest has frames, caption and truth of each
    acts: float = 0.0
    # acts of such a clip: two are cut at frame 5, 9 or 17, and clips of under 13 frames have one;
    # of more, the first has 17 frames and the others 16
    scenes: int = 2
    # share of clips whose thing moves slowly or quickly, and whose caption says so
    speeds: float = 0.0
    # share of clips that play in a made-up picture instead of a landscape; their captions do not
    # tell of it, so training always gives a part of them
    collages: float = 0.0
    # share of clips whose thing bounces once, twice or three times and rests before and after
    repeats: float = 0.0
    # the manifest also has the subjects of each clip, and captions that do not say what they are:
    # training may then show them by pictures from other clips (`tasks.references`)
    references: bool = False
    fps: int = 8  # frames a second
    seed: int = 0  # of the first clip; clip i is a function of seed, split and i
    workers: int = 2  # processes

    def __post_init__(self) -> None:
        at_least_one(self, "count", "num_frames", "height", "width", "fps", "workers")
        not_negative(self, "acts", "speeds", "collages", "repeats")
        if self.acts + self.speeds + self.collages + self.repeats > 1:
            raise UserError(
                f"acts={self.acts:g} speeds={self.speeds:g} collages={self.collages:g} repeats="
                f"{self.repeats:g}: a clip has acts, an unusual speed, a made-up picture or a "
                "number of hops, never two of them, so these shares add up to at most 1. Lower one."
            )
        if self.scenes < 2:
            raise UserError(f"scenes={self.scenes}: a clip of several acts has at least 2.")
        shortest = min(frames for frames, _, _ in self.clip_shapes())
        if self.repeats and shortest < 17:
            raise UserError(
                f"repeats={self.repeats:g}: three hops take 17 frames, and there are clips of "
                f"{shortest}. Ask for longer clips, or leave repeats out."
            )
        if self.acts and self.scenes > 2 and shortest < (needed := 16 * self.scenes + 1):
            raise UserError(
                f"scenes={self.scenes} take {needed} frames, and there are clips of {shortest}. "
                "Ask for longer clips or for fewer scenes."
            )

    def clip_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Frames, height and width of the clips of each shard, in turn.

        Raises:
            UserError: `shapes` names something else.
        """
        shapes = tuple(shape_of("shapes", text) for text in self.shapes)
        return shapes or ((self.num_frames, self.height, self.width),)


def shape_of(setting: str, text: str) -> tuple[int, int, int]:
    """The frames, height and width that a text such as "33x48x64" names.

    Args:
        setting: what holds it, for messages.

    Raises:
        UserError: it names something else.
    """
    if not (found := SHAPE.fullmatch(text)):
        raise UserError(
            f"{setting}={shortened(text)}: no shape of a clip. Give frames x height x width, for "
            f"example {setting}=[17x64x64, 33x48x64]."
        )
    frames, height, width = map(int, found.groups())
    for name, value in (("num_frames", frames), ("height", height), ("width", width)):
        within_range(f"{setting}.{name}", value)
    return frames, height, width


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
    # what is trained: t5, with attention; ngrams, hashed; bytes, by convolutions; average
    kind: TextKind = "t5"
    elastic: bool = False  # its first layers and channels alone learn to do too (2DMSE)
    count: int = 1000  # captions
    steps: int = 1000  # of training; 0: the weights stay as they are drawn
    batch_size: int = 128  # captions a step
    lr: float = 2e-3  # learning rate at its peak
    start_from: str | None = None  # a folder whose tokenizer and text encoder learn on
    seed: int = 0  # of captions, weights and batches

    def __post_init__(self) -> None:
        at_least_one(self, "count", "batch_size")
        not_negative(self, "steps")


@dataclass(frozen=True, kw_only=True)
class WorldOracleConfig:
    """`t2v world oracle`: train the classifier that reads a scene's attributes from its pixels."""

    FORMERLY: ClassVar[tuple[str, ...]] = ("WorldConfig",)
    RETIRED: ClassVar[dict[str, Retired]] = {
        "make": Retired(MAKE, ("oracle",)),
        **dict.fromkeys(("count", *OF_CLIPS), RENDERING),
    }
    output: str  # folder of the model
    overwrite: bool = False  # replace files in the output that are not this command's own
    data: str  # folder of clips that `t2v world` rendered
    clips_per_shard: int | None = None  # clips read of each of its files, the first ones; null: all
    start_from: str | None = None  # a folder whose oracle learns on
    # false: the convolutions of start_from stay, and what they find is computed once for each clip
    train_body: bool = True
    steps: int = 1000  # of training
    batch_size: int = 128  # clips a step
    lr: float = 2e-3  # learning rate at its peak
    seed: int = 0  # of weights and batches

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "batch_size")
        if self.clips_per_shard is not None:
            at_least_one(self, "clips_per_shard")
        if not (self.train_body or self.start_from):
            raise UserError(
                "train_body=false keeps the convolutions of start_from, and none is given. "
                "Add start_from=FOLDER, or train the whole."
            )
