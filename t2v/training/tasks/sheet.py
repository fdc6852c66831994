"""The samples that a transformer's validations draw, of the same prompts and noise each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2v.config.training import DiffusionConfig
from t2v.errors import UserError
from t2v.models.inputs import latent_shape
from t2v.pipelines.generator import Request, sample_videos
from t2v.pipelines.t2v import T2VPipeline
from t2v.pipelines.t2v_generator import T2VGenerator
from t2v.pipelines.visuals import VisualInputs

SIDES = ("num_frames", "height", "width")


class Sheet:
    """Samples of `prompts`, as `t2v sample` draws them with a checkpoint.

    Args:
        config: its `sheet` says how large they are, and its seed of which noise.
        sizes: `height`, `width` and `num_frames` of the clips, where `config.sheet` says nothing.
    """

    def __init__(
        self, config: DiffusionConfig, prompts: Sequence[str], sizes: Mapping[str, Any]
    ) -> None:
        self.asked, self.seed, self.sizes = config.sheet, config.seed, sizes
        self.prompts = tuple(prompts)

    def check(self, transformer: Any, vae: Any) -> None:
        """Raise `UserError` for a size that the model cannot make, before it has learned."""
        try:
            latent_shape(transformer, vae, 1, **self._sides())
        except UserError as error:
            raise UserError(f"sheet.{error}") from error

    def draw(
        self, pipeline: T2VPipeline, pictures: Mapping[str, VisualInputs] | None = None
    ) -> tuple[Tensor, np.ndarray]:
        """Latents `n c t h w` and frames `n t h w c` uint8.

        Args:
            pictures: what the video of each prompt is given to see, where the model reads any.
        """
        generator = T2VGenerator(pipeline)
        request = self._request(generator.defaults)
        seen = [pictures[prompt] for prompt in self.prompts] if pictures else []
        seeds, latents, frames = [self.seed] * len(self.prompts), [], []
        for video in sample_videos(generator, self.prompts, seeds, request, visuals=seen):
            latents.append(video)
            frames.append(generator.decode(video, request.num_frames))
        return torch.cat(latents), np.concatenate(frames)

    def _request(self, saved: Request) -> Request:
        steps = self.asked.steps or saved.num_inference_steps
        return replace(saved, **self._sides(), num_inference_steps=steps)

    def _sides(self) -> dict[str, Any]:
        return {name: getattr(self.asked, name) or self.sizes[name] for name in SIDES}
