"""The settings of a story: its scenes, and how its windows are joined."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from t2v.config.load import load_config
from t2v.errors import UserError, shortened

LONGEST = 86_400  # seconds of a scene


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """A scene of a story."""

    prompt: str  # what the scene shows
    seconds: float  # its length
    # the first frame after a cut, or the next one after the last frame of the scene before;
    # null: a cut for the first scene and for one with an image
    start: Literal["cut", "continue"] | None = None
    image: str | None = None  # a picture that the scene begins with

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UserError("prompt: it is empty. Say what the scene should show.")
        if not 0 < self.seconds <= LONGEST:
            raise UserError(
                f"seconds={self.seconds}: a scene lasts more than 0 and at most {LONGEST:,} "
                "seconds, a day."
            )
        if self.image is not None and self.start == "continue":
            raise UserError(
                f"image={shortened(self.image)} and start=continue: a scene begins with the "
                "picture or goes on from the last frame of the scene before. Leave one out."
            )


@dataclass(frozen=True, kw_only=True)
class WindowsConfig:
    """The windows that a long video is made of, each one video for the model."""

    frames: int | None = None  # frames of a window, the known ones too; null: the model's own
    # latent frames that a window is given of the one before, besides the frame before them
    overlap: int = 2
    # give them as they were made, or as the VAE encodes their frames
    known: Literal["latents", "frames"] = "latents"
    strength: float = 1.0  # how surely they are kept, in (0, 1]; less lets the model mend them
    # the noise of a window: its own, or half of it the last latent frame, taken back to noise
    noise: Literal["fresh", "inverted"] = "fresh"
    lag: int = 0  # steps that each latent frame is behind the one before; 0: none
    anchor: bool = False  # also give the first frame after the last cut, as a picture

    def __post_init__(self) -> None:
        if self.overlap < 0:
            raise UserError(f"overlap={self.overlap}: it must be 0 or more.")
        if not 0 < self.strength <= 1:
            raise UserError(f"strength={self.strength}: it must be over 0 and at most 1.")
        if self.lag < 0:
            raise UserError(f"lag={self.lag}: it must be 0 or more.")
        if self.lag and self.strength < 1:
            raise UserError(
                f"lag={self.lag} strength={self.strength}: both set the times of latent frames. "
                "Give one of them."
            )


@dataclass(frozen=True, kw_only=True)
class StoryConfig:
    """A story file of `t2v sample --story`."""

    scenes: tuple[SceneConfig, ...]  # one after the other
    windows: WindowsConfig = field(default_factory=WindowsConfig)

    def __post_init__(self) -> None:
        if not self.scenes:
            raise UserError("scenes: there is none. Give at least one, with prompt and seconds.")
        if self.scenes[0].start == "continue":
            raise UserError(
                "scenes: the first one says start: continue, and there is nothing to go on from. "
                "Leave it out."
            )

    def is_cut(self, number: int) -> bool:
        """True where a scene does not go on from the one before."""
        scene = self.scenes[number]
        return number == 0 or scene.start == "cut" or scene.image is not None


def read_story(file: Path) -> StoryConfig:
    """The story of a file of `--story`, its pictures by their whole paths.

    Raises:
        UserError: see `load_config`.
    """
    story = load_config(StoryConfig, file, [], option="--story")
    scenes = tuple(
        each
        if each.image is None
        else replace(each, image=str((file.parent / each.image).resolve()))
        for each in story.scenes
    )
    return replace(story, scenes=scenes)


def stored_story(values: Any, where: str) -> StoryConfig:
    """The story that a recipe holds.

    Args:
        where: begins the message.

    Raises:
        UserError: it is damaged.
    """
    try:
        stored = {"scenes": values["scenes"]}
        windows = values.get("windows", {})
        stored |= {f"windows.{name}": each for name, each in windows.items()}
        return load_config(StoryConfig, None, (), stored)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: its recipe is damaged ({error} of its story).") from error
