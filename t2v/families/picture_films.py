"""A model that makes pictures as a generator of films whose frames move."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from t2v.errors import UserError
from t2v.families.generator import check_sides
from t2v.models.finite import refuse_bad
from t2v.pipelines.generator import Generator, Request, Start, Step, Watcher, to_uint8
from t2v.pipelines.moving_pictures import OURS, Move, check_pictures, film_of_pictures, steady
from t2v.pipelines.visuals import VisualInputs

USUAL = {"num_frames": 8, "fps": 4.0}  # as in the paper
SETTINGS = ("height", "width", "num_inference_steps", "guidance_scale")
# what a request cannot have, and its value that asks for nothing
OTHERS: dict[str, Any] = {
    "upscale": 1,
    "cache": "none",
    "token_merging": 0.0,
    "guidance_interval": (),
}


def with_motion(generator: Generator) -> PictureFilms:
    """The generator of films whose frames move, of the same pipeline.

    Raises:
        UserError: it makes no pictures, see `check_pictures`.
    """
    if isinstance(generator, PictureFilms):
        return generator
    return PictureFilms(generator.pipeline, generator)


class PictureFilms:
    """A pipeline of pictures, or a `T2VPipeline` by its pictures, see `film_of_pictures`.

    It gives finished frames.
    """

    pipeline_class: ClassVar[type[DiffusionPipeline]] = DiffusionPipeline
    is_trainable: ClassVar[bool] = False
    gives_latents: ClassVar[bool] = False
    can_resume: ClassVar[bool] = False
    takes: ClassVar[frozenset[str]] = frozenset()
    vae = None
    sound = None

    def __init__(self, pipeline: Any, videos: Generator | None = None) -> None:
        """Raise `UserError` where the pipeline makes no pictures, see `check_pictures`.

        Args:
            videos: of the same pipeline, which knows what it takes.
        """
        self.is_ours = check_pictures(pipeline) == OURS
        self.pipeline, self.videos = pipeline, videos

    @property
    def defaults(self) -> Request:
        if self.is_ours:
            saved = self.pipeline.config
            known = {name: saved[name] for name in SETTINGS}
            return Request(**known, num_frames=saved.num_frames, fps=saved.fps)
        parameters = inspect.signature(self.pipeline.__call__).parameters
        known = {name: parameters[name].default for name in SETTINGS if name in parameters}
        own = getattr(self.pipeline, "default_sample_size", None)
        if isinstance(own, int):
            own *= self.pipeline.vae_scale_factor
            known = {name: known.get(name) or own for name in ("height", "width")} | known
        made: dict[str, Any] = {name: known.get(name) for name in SETTINGS}
        return Request(**made | USUAL)

    def check(self, prompt: str, request: Request, visuals: VisualInputs | None = None) -> None:
        name = type(self.pipeline).__name__
        if not request.motion:
            raise UserError(
                f"A {name} makes pictures. Give motion=[RIGHT,DOWN] of `t2v sample`, pixels from "
                "each frame to the next, such as motion=[2,0], for a film of one that moves."
            )
        given = {each: getattr(request, each) for each in OTHERS}
        asked = [f"{each}={value}" for each, value in given.items() if value != OTHERS[each]]
        asked += ["a picture or clip"] if visuals is not None else []
        if asked:
            raise UserError(
                f"motion={list(request.motion)} and {', '.join(asked)}: films of pictures that "
                "move take none of these. Leave them out."
            )
        assert request.num_inference_steps is not None
        Move(self.pipeline, [], request.num_inference_steps)
        steady(self.pipeline.scheduler)
        if self.is_ours:
            assert self.videos is not None
            self.videos.check(prompt, request)
            return
        if request.prompting.reads or request.truncate:
            raise UserError(
                f"motion: a {name} reads its prompts itself, without signs, and cuts off what does "
                "not fit. Leave prompting and truncate out."
            )
        check_sides(name, self.pipeline.vae_scale_factor, request.height, request.width)

    def encode(
        self,
        prompts: Sequence[str],
        request: Request,
        visuals: Sequence[VisualInputs | None] = (),
    ) -> list[str]:
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
        shown = None if watch is None else lambda index, x: watch(Step(index + 1, x))
        films = [
            film_of_pictures(
                self.pipeline,
                prompt,
                motion=(request.motion[0], request.motion[1]),
                num_frames=request.num_frames or 1,
                seed=seed,
                on_step=shown,
                **self._arguments(request),
            )
            for prompt, seed in zip(conditions, seeds, strict=True)
        ]
        frames = torch.from_numpy(np.stack(films))
        refuse_bad(type(self.pipeline).__name__, frames, self.pipeline.dtype)
        return frames

    def _arguments(self, request: Request) -> dict[str, Any]:
        given = {name: getattr(request, name) for name in SETTINGS}
        given["negative_prompt"] = request.negative_prompt or None
        if self.is_ours:
            given |= {"prompting": request.prompting, "truncate": request.truncate}
        return {name: value for name, value in given.items() if value is not None}

    def decode(self, latents: Tensor, num_frames: int | None, upscale: int = 1) -> np.ndarray:
        assert upscale == 1, "`check` refuses others"
        return to_uint8(latents[:, :num_frames].numpy())

    def decode_pieces(
        self, latents: Tensor, num_frames: int | None, upscale: int = 1
    ) -> Iterator[np.ndarray]:
        yield self.decode(latents, num_frames, upscale)[0]
