"""Windows of a story with another package's pipeline: each begins with the last frame before it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from t2v.config.story import WindowsConfig
from t2v.errors import UserError
from t2v.families.generator import FamilyGenerator
from t2v.families.pictures import needs
from t2v.families.record import temporal
from t2v.families.table import family_of
from t2v.pipelines.generator import Generator, Request
from t2v.pipelines.story import Film, Scene, Window, plan_windows
from t2v.pipelines.visuals import VisualInputs, fit_frames, frames_tensor

logger = logging.getLogger(__name__)


def with_same_weights(generator: Generator) -> Generator | None:
    """The generator of a pipeline that begins with a picture, made of another one's parts.

    None where its family has no such pipeline, or its encoders have left the memory.
    """
    pipeline = generator.pipeline
    name = type(pipeline).__name__
    family = family_of(name)
    if family is None or "encode_prompt" in vars(pipeline):  # its results alone are kept
        return None
    for other in family.shares(name, pipeline.config):
        kind = getattr(diffusers, other)
        taken = inspect.signature(kind.__init__).parameters
        known = {**pipeline.config, **pipeline.components}
        made = kind(**{each: value for each, value in known.items() if each in taken})
        found = FamilyGenerator(made)
        if "image" in found.takes:
            made.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
            logger.info(
                "a %s begins with pictures as a %s, which has the same weights", name, other
            )
            return found
    return None


class FrameWindows:
    """The maker of a story's windows by image to video.

    Args:
        request: of each window; its `num_frames` is their length.

    Raises:
        UserError: a way to join windows is asked for that needs latents.
    """

    def __init__(self, generator: Generator, request: Request, config: WindowsConfig) -> None:
        self.generator, self.request = generator, request
        takes_image = "image" in generator.takes
        self.beginning = generator if takes_image else with_same_weights(generator)
        self.name = type(generator.pipeline).__name__
        if config != WindowsConfig(frames=config.frames):
            raise UserError(
                f"windows: a {self.name} is given the last frame alone, so only windows.frames can "
                "be set. Leave the others out."
            )

    def plan(self, scenes: Sequence[Scene]) -> list[Window]:
        """The windows of scenes.

        Raises:
            UserError: see `plan_windows`; or the pipeline cannot begin with a picture, or without.
        """
        length = self.request.num_frames
        if length is None:
            raise UserError(f"A {self.name} has no length of its own: set windows.frames.")
        stride = temporal(self.generator.pipeline)
        found = plan_windows(scenes, length, stride, 0, as_latents=False)
        for window in found:
            scene, number = scenes[window.scene], window.scene + 1
            picture = self._stand_in(scene, window)
            if picture is not None and self.beginning is None:
                raise UserError(
                    f"scene {number} goes on from a frame or a picture, and a {self.name} takes no "
                    f"image. Use another model, or scenes of at most {length} frames that all "
                    "begin with a cut."
                )
            if picture is None and "image" in needs(self.generator.pipeline):
                raise UserError(
                    f"scene {number} begins with a cut, and a {self.name} makes videos of "
                    "pictures. Give the scene an image."
                )
            self._for(picture).check(scene.prompt, self.request, picture)
        if any(window.known for window in found):
            logger.info("a %s takes no latents: each window begins with the last frame", self.name)
        return found

    def _for(self, visuals: VisualInputs | None) -> Generator:
        """The generator of a window, by what it begins with."""
        if visuals is None:
            return self.generator
        assert self.beginning is not None, "`plan` refuses it"
        return self.beginning

    def _stand_in(self, scene: Scene, window: Window) -> VisualInputs | None:
        """The picture that a window will be given, black as yet; None: it gets none."""
        if not window.known and (scene.image is None or window.number):
            return None
        return VisualInputs(image=np.zeros((8, 8, 3), dtype=np.uint8))

    def make(
        self, scene: Scene, window: Window, film: Film, seed: int, watch: Any = None
    ) -> Tensor:
        """All that the generator gives for a window, latents or frames."""
        visuals = None
        if window.known:
            assert film.tail is not None
            visuals = VisualInputs(image=film.tail[-1])
        elif scene.image is not None and window.number == 0:
            height, width = self.request.height, self.request.width
            assert height is not None and width is not None
            picture = frames_tensor(scene.image, "image")
            visuals = VisualInputs(image=fit_frames(picture, height, width, scene.fit)[0])
        generator = self._for(visuals)
        given = generator.encode([scene.prompt], self.request, [visuals])
        return generator.generate(given, self.request, [window.seed(seed)], watch)

    def show(self, window: Window, film: Film, latents: Tensor) -> Tensor:
        """The frames that a window adds to the story, `t c h w` in [0, 1]; the film moves on."""
        if not window.known:
            film.cut()
        (made,) = self.generator.decode(latents, self.request.num_frames)
        shown = torch.from_numpy(made[window.known : window.known + window.frames])
        frames = rearrange(shown, "t h w c -> t c h w").float() / 255
        film.add(frames, 1)
        return frames
