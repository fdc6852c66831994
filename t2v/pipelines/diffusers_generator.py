"""Any other package's text-to-video pipeline as a generator, by the signature of its call."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from einops import rearrange
from PIL import Image
from torch import Tensor

from t2v.errors import UserError
from t2v.models.finite import refuse_bad
from t2v.models.upscaler import check_scale
from t2v.pipelines.generator import Request, Start, Step, Watcher, to_uint8
from t2v.pipelines.visuals import Frames, VisualInputs, frames_tensor

FPS = 16.0  # such pipelines do not say how fast their frames follow each other
Asked = tuple[str, VisualInputs | None]
VISUAL = ("image", "last_image", "video", "mask", "strength")
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
        self.parameters = inspect.signature(pipeline.__call__).parameters

    @property
    def takes(self) -> frozenset[str]:
        return frozenset(VISUAL) & self.parameters.keys()

    @property
    def defaults(self) -> Request:
        saved = {
            name: self.parameters[name].default for name in SETTINGS if name in self.parameters
        }
        required = inspect.Parameter.empty
        known: dict[str, Any] = {
            name: None if saved.get(name) is required else saved.get(name) for name in SETTINGS
        }
        return Request(**known, fps=FPS)

    def check(self, prompt: str, request: Request, visuals: VisualInputs | None = None) -> None:
        check_scale(request.upscale, None, "upscale")
        given = [name for name in SETTINGS if getattr(request, name) is not None]
        if unknown := [name for name in given if name not in self.parameters]:
            raise UserError(f"{type(self.pipeline).__name__} takes no {' or '.join(unknown)}.")

    def encode(
        self,
        prompts: Sequence[str],
        request: Request,
        visuals: Sequence[VisualInputs | None] = (),
    ) -> list[Asked]:
        """The prompts, and what each video is given to see, as they are."""
        return list(zip(prompts, visuals or [None] * len(prompts), strict=True))

    def latent_shape(self, request: Request) -> tuple[int, ...]:
        raise AssertionError("it gives no latents")

    def generate(
        self,
        conditions: list[Asked],
        request: Request,
        seeds: Sequence[int],
        watch: Watcher | None = None,
        start: Start | None = None,
    ) -> Tensor:
        """Frames `b t h w c` in [0, 1]."""
        assert start is None, "it cannot resume"
        if any(visuals is not None for _, visuals in conditions) and len(conditions) > 1:
            # what is seen has no axis of videos in such pipelines
            alone = [
                self.generate([each], request, [seed], watch)
                for each, seed in zip(conditions, seeds, strict=True)
            ]
            return torch.cat(alone)

        def callback(
            pipeline: Any, index: int, timestep: Tensor, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            if watch is not None:
                watch(Step(index + 1, tensors["latents"]))
            return {}

        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        stride = getattr(self.pipeline, "vae_scale_factor_temporal", 1)
        frames = request.num_frames
        padded = frames and -(-(frames - 1) // stride) * stride + 1
        prompts = [prompt for prompt, _ in conditions]
        wanted = {
            "prompt": prompts if len(prompts) > 1 else prompts[0],
            "negative_prompt": request.negative_prompt or None,
            "height": request.height,
            "width": request.width,
            "num_frames": padded,
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            "strength": request.strength,
            "generator": generators if len(generators) > 1 else generators[0],
            "callback_on_step_end": callback,
            "output_type": "np",
        }
        if conditions[0][1] is not None:
            wanted |= _pictures(conditions[0][1], padded)
        given = {
            name: value
            for name, value in wanted.items()
            if name in self.parameters and value is not None
        }
        videos = torch.from_numpy(np.asarray(self.pipeline(**given).frames)[:, :frames])
        refuse_bad(type(self.pipeline).__name__, videos, self.pipeline.dtype)
        return videos

    def decode(self, latents: Tensor, num_frames: int | None, upscale: int = 1) -> np.ndarray:
        assert upscale == 1, "`check` refuses others"
        return to_uint8(latents.numpy())


def _pictures(visuals: VisualInputs, count: int | None) -> dict[str, Any]:
    """The pictures and clips of a video as such pipelines take them: images of Pillow.

    Args:
        count: frames of a clip that the VAE holds; the last one stands for those behind it.
    """
    images = {
        name: _images(getattr(visuals, name), name)
        for name in VISUAL
        if getattr(visuals, name, None) is not None
    }
    if "mask" in images and "video" in images:
        images["mask"] *= len(images["video"]) if len(images["mask"]) == 1 else 1
    found: dict[str, Any] = {}
    for name, each in images.items():
        if name in ("image", "last_image"):
            (found[name],) = each
        else:
            found[name] = each + each[-1:] * ((count or 0) - len(each))
    return found


def _images(frames: Frames, name: str) -> list[Image.Image]:
    levels = (frames_tensor(frames, name) * 255).round().byte()
    return [Image.fromarray(rearrange(frame, "c h w -> h w c").numpy()) for frame in levels]
