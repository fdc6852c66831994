"""Windows of a story with any pipeline that begins a video with a picture."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from t2v.config.story import WindowsConfig
from t2v.errors import UserError
from t2v.pipelines.generator import Generator, Request
from t2v.pipelines.story import Film, Scene, Window, plan_windows
from t2v.pipelines.visuals import VisualInputs

logger = logging.getLogger(__name__)


class FrameWindows:
    """The maker of a story's windows by image to video: each begins with the last frame before it.

    Raises:
        UserError: a way to join windows is asked for that needs latents.
    """

    def __init__(self, generator: Generator, request: Request, config: WindowsConfig) -> None:
        self.generator, self.request = generator, request
        self.name = type(generator.pipeline).__name__
        if config != WindowsConfig(frames=config.frames):
            raise UserError(
                f"windows: a {self.name} is given the last frame alone, so only windows.frames "
                "can be set. Leave the others out."
            )

    def plan(self, scenes: Sequence[Scene]) -> list[Window]:
        """The windows of scenes.

        Raises:
            UserError: see `plan_windows`; or the pipeline begins with no picture.
        """
        length = self.request.num_frames
        if length is None:
            raise UserError(
                f"windows.frames is not set, and a {self.name} has no length of its own. Set it."
            )
        temporal = getattr(self.generator.pipeline, "vae_scale_factor_temporal", 1)
        found = plan_windows(scenes, length, temporal, 0, as_latents=False)
        needy = [each for each in found if each.known or scenes[each.scene].image is not None]
        if needy and "image" not in self.generator.takes:
            raise UserError(
                f"scene {needy[0].scene + 1} goes on from a frame or a picture, and a {self.name} "
                f"takes no image. Use another model, or scenes of at most {length} frames that "
                "all begin with a cut."
            )
        if needy:
            logger.info("a %s takes no latents: windows begin with the last frame", self.name)
        return found

    def make(
        self, scene: Scene, window: Window, film: Film, seed: int, watch: Any = None
    ) -> Tensor:
        """The frames of a window, `1 t h w c` in [0, 1], with the one that it is given."""
        visuals = None
        if window.known:
            assert film.tail is not None
            visuals = VisualInputs(image=film.tail[-1])
        elif scene.image is not None and window.number == 0:
            visuals = VisualInputs(image=scene.image, fit=scene.fit)
        conditions = self.generator.encode([scene.prompt], self.request, [visuals])
        return self.generator.generate(conditions, self.request, [window.seed(seed)], watch)

    def show(self, window: Window, film: Film, latents: Tensor) -> Tensor:
        """The frames that a window adds to the story, `t c h w` in [0, 1]; the film moves on."""
        if not window.known:
            film.cut()
        (made,) = latents
        shown = made[window.known : window.known + window.frames]
        frames = rearrange(torch.as_tensor(shown), "t h w c -> t c h w").contiguous()
        film.add(frames, 1)
        return frames
