"""The samples that a transformer's validations draw, of the same prompts and noise each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2v.config.training import DiffusionConfig, SheetConfig
from t2v.errors import UserError
from t2v.io.progress import progress
from t2v.models.conditions import Conditions
from t2v.models.inputs import latent_shape
from t2v.pipelines.generator import Generator, Request
from t2v.pipelines.visuals import VisualInputs

Pair = tuple[Conditions, Conditions | None]
SIDES = ("num_frames", "height", "width")


def check_sheet(asked: SheetConfig, transformer: Any, vae: Any) -> None:
    """Raise `UserError` for a given side that the model cannot make; those of clips come later."""
    _, *patch = transformer.config.patch_size
    least = {"num_frames": 1} | {
        name: vae.config.scale_factor_spatial * step
        for name, step in zip(SIDES[1:], patch, strict=True)
    }
    _check_sides(transformer, vae, {name: getattr(asked, name) or least[name] for name in SIDES})


def _check_sides(transformer: Any, vae: Any, sides: dict[str, int]) -> None:
    try:
        latent_shape(transformer, vae, 1, **sides)
    except UserError as error:
        raise UserError(f"sheet.{error}") from error


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
        self.texts: dict[str, Pair] = {}

    def check(self, transformer: Any, vae: Any) -> None:
        """Raise `UserError` for a size that the model cannot make, before it has learned."""
        _check_sides(transformer, vae, self._sides())

    @torch.no_grad()
    def embed(self, generator: Generator) -> None:
        """Keep the embeddings of the prompts: from here on `draw` needs no text encoder."""
        request = self.request(generator.defaults)
        for prompt in self.prompts:
            self.texts[prompt] = _moved(generator.encode([prompt], request), torch.device("cpu"))

    def draw(
        self,
        generator: Generator,
        pictures: Mapping[str, VisualInputs] | None = None,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> tuple[Tensor, np.ndarray]:
        """Latents `n c t h w` and frames `n t h w c` uint8.

        Args:
            generator: of a `T2VPipeline`.
            pictures: what the video of each prompt is given to see, where the model reads any.
            precision: around the denoising.
        """
        pipeline: Any = generator.pipeline
        pipeline.set_progress_bar_config(disable=True)
        request = self.request(generator.defaults)
        latents, frames = [], []
        for prompt in progress(self.prompts, "sample", "videos"):
            text = self.texts.get(prompt) or generator.encode([prompt], request)
            text = _moved(text, pipeline._execution_device)
            seen = [pictures[prompt]] if pictures else []
            conditions = pipeline.add_visuals(text, seen, **self._sides()) if seen else text
            with precision():
                video = generator.generate(conditions, request, [self.seed])
            latents.append(video)
            frames.append(generator.decode(video, request.num_frames))
        return torch.cat(latents), np.concatenate(frames)

    def request(self, saved: Request) -> Request:
        """The videos of a sheet; what it does not say is as `saved`."""
        steps = self.asked.steps or saved.num_inference_steps
        return replace(saved, **self._sides(), num_inference_steps=steps)

    def _sides(self) -> dict[str, Any]:
        return {name: getattr(self.asked, name) or self.sizes[name] for name in SIDES}


def _moved(pair: Pair, device: torch.device) -> Pair:
    positive, negative = pair
    return positive.to(device), None if negative is None else negative.to(device)
