"""Any other package's text-to-video pipeline as a generator, by the signature of its call."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from t2v.errors import UserError
from t2v.models.finite import refuse_bad
from t2v.models.upscaler import check_scale
from t2v.pipelines.generator import Request, Start, Step, Watcher, to_uint8

FPS = 16.0  # such pipelines do not say how fast their frames follow each other
SETTINGS = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale")


class DiffusersGenerator:
    """A pipeline that gives frames: text encoding and decoding happen inside its call.

    Frame counts its VAE cannot hold are padded up and cropped.
    """

    pipeline_class: ClassVar[type[DiffusionPipeline]] = DiffusionPipeline
    gives_latents: ClassVar[bool] = False
    is_trainable: ClassVar[bool] = False
    can_resume = False
    vae = None

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.pipeline = pipeline
        self.takes = inspect.signature(pipeline.__call__).parameters

    @property
    def defaults(self) -> Request:
        saved = {name: self.takes[name].default for name in SETTINGS if name in self.takes}
        required = inspect.Parameter.empty
        known: dict[str, Any] = {
            name: None if saved.get(name) is required else saved.get(name) for name in SETTINGS
        }
        return Request(**known, fps=FPS)

    def check(self, prompt: str, request: Request) -> None:
        check_scale(request.upscale, None, "upscale")
        given = [name for name in SETTINGS if getattr(request, name) is not None]
        if unknown := [name for name in given if name not in self.takes]:
            raise UserError(f"{type(self.pipeline).__name__} takes no {' or '.join(unknown)}.")

    def encode(self, prompts: Sequence[str], request: Request) -> list[str]:
        """The prompts as they are."""
        return list(prompts)

    def latent_shape(self, request: Request) -> tuple[int, ...]:
        raise AssertionError("it gives no latents")

    def generate(
        self,
        conditions: list[str],
        request: Request,
        seeds: Sequence[int],
        watch: Watcher | None = None,
        start: Start | None = None,
    ) -> Tensor:
        """Frames `b t h w c` in [0, 1]."""
        assert start is None, "it cannot resume"

        def callback(
            pipeline: Any, index: int, timestep: Tensor, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            if watch is not None:
                watch(Step(index + 1, tensors["latents"]))
            return {}

        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        stride = getattr(self.pipeline, "vae_scale_factor_temporal", 1)
        frames = request.num_frames
        wanted = {
            "prompt": conditions if len(conditions) > 1 else conditions[0],
            "negative_prompt": request.negative_prompt or None,
            "height": request.height,
            "width": request.width,
            "num_frames": frames and -(-(frames - 1) // stride) * stride + 1,
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            "generator": generators if len(generators) > 1 else generators[0],
            "callback_on_step_end": callback,
            "output_type": "np",
        }
        given = {
            name: value
            for name, value in wanted.items()
            if name in self.takes and value is not None
        }
        videos = torch.from_numpy(np.asarray(self.pipeline(**given).frames)[:, :frames])
        refuse_bad(type(self.pipeline).__name__, videos, self.pipeline.dtype)
        return videos

    def decode(self, latents: Tensor, num_frames: int | None, upscale: int = 1) -> np.ndarray:
        assert upscale == 1, "`check` refuses others"
        return to_uint8(latents.numpy())
