"""Another package's pipeline as a generator: by its family, else by the signature of its call."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from t2v.errors import UserError
from t2v.families import pictures
from t2v.families.record import temporal
from t2v.families.steps import Steps
from t2v.families.table import family_of
from t2v.io.sound import Sound
from t2v.models.finite import refuse_bad
from t2v.models.upscaler import check_scale
from t2v.pipelines.generator import Request, Start, Step, Watcher, as_frames, to_uint8
from t2v.pipelines.latent_videos import pieces_of
from t2v.pipelines.visuals import VisualInputs

logger = logging.getLogger(__name__)

Asked = tuple[str, VisualInputs | None]
SETTINGS = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale")


class FamilyGenerator:
    """A pipeline of another package by the record of its family: the same videos as its own call.

    Of a family that is known, latents come out before they are decoded, and a call goes on from
    its middle. Of others the call gives frames, and their rate has to be said. Lengths that the
    VAE cannot hold are padded up and cropped.
    """

    pipeline_class: ClassVar[type[DiffusionPipeline]] = DiffusionPipeline
    is_trainable: ClassVar[bool] = False
    vae = None

    def __init__(self, pipeline: DiffusionPipeline) -> None:
        self.pipeline = pipeline
        self.sound: Sound | None = None
        self.parameters = inspect.signature(pipeline.__call__).parameters
        self.family = family_of(type(pipeline).__name__)
        if self.family is None:
            logger.warning(
                "%s is of no family that t2v knows: it is called by the names of its arguments, "
                "decodes within its call, and cannot go on from its middle",
                type(pipeline).__name__,
            )

    @property
    def gives_latents(self) -> bool:
        return self.family is not None and self.family.denormalize is not None

    @property
    def can_resume(self) -> bool:
        return self.family is not None and self.family.resumes

    @property
    def takes(self) -> frozenset[str]:
        refused = frozenset() if self.family is None else self.family.refuses(self.pipeline)
        return pictures.takes(self.pipeline, self.parameters.keys()) - refused

    @property
    def _edits(self) -> bool:
        """True if its videos are clips that it changes, as long as those are."""
        return {"video", "strength"} <= self.takes and "num_frames" not in self.parameters

    @property
    def defaults(self) -> Request:
        saved = {
            name: self.parameters[own].default
            for name in SETTINGS
            if (own := self._name(name)) in self.parameters
        }
        if self._guider is not None:
            saved["guidance_scale"] = self._guider.guidance_scale
        required = inspect.Parameter.empty
        known: dict[str, Any] = {
            name: None if saved.get(name) is required else saved.get(name) for name in SETTINGS
        }
        rate = None if self.family is None else self.family.frames_per_second(self.pipeline)
        return Request(**known | self._usual(known), fps=rate)

    def _name(self, setting: str) -> str:
        """The call's own name of a setting."""
        return setting if self.family is None else self.family.names.get(setting, setting)

    @property
    def _guider(self) -> Any:
        """The component that holds `guidance_scale`, where the call does not take it; or None."""
        name = None if self.family is None else self.family.guider
        guider = None if name is None else getattr(self.pipeline, name)
        return guider if hasattr(guider, "guidance_scale") else None

    def _usual(self, known: dict[str, Any]) -> dict[str, Any]:
        """The family's own values for what the call leaves open."""
        usual = {} if self.family is None else self.family.usual(self.pipeline)
        return {name: value for name, value in usual.items() if known[name] is None}

    def check(self, prompt: str, request: Request, visuals: VisualInputs | None = None) -> None:
        check_scale(request.upscale, None, "upscale")
        name = type(self.pipeline).__name__
        for package in () if self.family is None else self.family.needs:
            if find_spec(package) is None:
                raise UserError(
                    f"{name} needs {package}, which is not installed: pip install {package}."
                )
        given = [each for each in SETTINGS if getattr(request, each) is not None]
        taken = {"guidance_scale"} if self._guider is not None else set()
        if self._edits:
            taken.add("num_frames")  # the clip has as many
        taken |= {each for each in given if self._name(each) in self.parameters}
        if unknown := [each for each in given if each not in taken]:
            raise UserError(f"{name} takes no {' or '.join(unknown)}.")
        pictures.read(prompt, visuals)
        pictures.refuse_missing(self.pipeline, visuals, request.strength)
        if self._edits and request.strength is None and getattr(visuals, "mask", None) is None:
            raise UserError(f"{name} edits a clip: say how far with strength=, such as 0.8.")
        if self._edits and request.strength and request.num_inference_steps:
            pictures.check_steps(request.num_inference_steps, request.strength)
        multiple = 1 if self.family is None else self.family.multiple(self.pipeline)
        check_sides(name, multiple, request.height, request.width)
        self._check_positions(request)
        if request.prompting.reads:
            from t2v.families import prompting  # most prompts have no signs

            prompting.check(self.pipeline, request.prompting, prompt, request.negative_prompt)

    def _check_positions(self, request: Request) -> None:
        """Raise `UserError` where a video has more tokens along an axis than the model knows."""
        config: Any = getattr(getattr(self.pipeline, "transformer", None), "config", {})
        most = config.get("rope_max_seq_len")
        asked = request.num_frames, request.height, request.width
        if most is None or self.family is None or None in asked:
            return
        grid = self.family.latent_shape(self.pipeline, request)[2:]
        names = ("num_frames", "height", "width")
        for name, value, cells, patch in zip(names, asked, grid, config.patch_size, strict=True):
            is_windowed = name == "num_frames" and "base_num_frames" in self.parameters
            if cells // patch > most and not is_windowed:
                raise UserError(
                    f"{name}={value}: {cells // patch} tokens, and the transformer of this "
                    f"{type(self.pipeline).__name__} knows {most} positions. Give less."
                )

    def encode(
        self,
        prompts: Sequence[str],
        request: Request,
        visuals: Sequence[VisualInputs | None] = (),
    ) -> list[Asked]:
        """The prompts, and what each video is given to see, as they are."""
        return list(zip(prompts, visuals or [None] * len(prompts), strict=True))

    def latent_shape(self, request: Request) -> tuple[int, ...]:
        assert self.family is not None, "it gives no latents"
        return self.family.latent_shape(self.pipeline, request)

    def generate(
        self,
        conditions: list[Asked],
        request: Request,
        seeds: Sequence[int],
        watch: Watcher | None = None,
        start: Start | None = None,
    ) -> Tensor:
        """Latents `b c t h w`, as the loop has them; else frames `b t h w c` in [0, 1]."""
        sees = any(visuals is not None for _, visuals in conditions)
        if (sees or request.cache != "none" or request.prompting.reads) and len(conditions) > 1:
            # what is seen has no axis of videos in such pipelines, and a cache decides for all rows
            alone = [
                self.generate([each], request, [seed], watch)
                for each, seed in zip(conditions, seeds, strict=True)
            ]
            return torch.cat(alone)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        given = self._arguments(conditions, request) | {
            "generator": generators if len(generators) > 1 else generators[0]
        }
        if self._guider is not None and request.guidance_scale is not None:
            assert self.family is not None and self.family.guider is not None
            guider = self._guider.new(guidance_scale=request.guidance_scale)
            setattr(self.pipeline, self.family.guider, guider)
        pictures.refuse_start(conditions[0][1], start)
        with self._accelerated(request, len(seeds), start):
            output = self._call(given, generators, request, watch, start)
        if not self.gives_latents:
            return self._frames(output, request)
        latents = self._unpacked(output, request)
        refuse_bad(type(self.pipeline).__name__, latents, self.pipeline.dtype)
        return latents

    def _unpacked(self, latents: Tensor, request: Request) -> Tensor:
        """Latents of the loop as `b c t h w`, without those of reference pictures, which VACE has
        before the video."""
        assert self.family is not None
        latents = self.family.unpack(self.pipeline, latents, request)
        if pictures.REFERENCES not in self.parameters:
            return latents
        return latents[:, :, latents.shape[2] - self.latent_shape(request)[2] :]

    @contextmanager
    def _accelerated(self, request: Request, videos: int, start: Start | None) -> Iterator[None]:
        """Have the pipeline do as a request says, beyond its own arguments, while it is called."""
        with ExitStack() as stack:
            if request.cache != "none":
                from t2v.config.caching import cache_of  # most videos are exact
                from t2v.models.caching import cached, refuse_start

                refuse_start(request.cache, start)
                cache, steps = cache_of(request.cache), request.num_inference_steps
                assert cache is not None
                stack.enter_context(cached(self.pipeline, cache, request.cache_ratios, steps))
            if request.token_merging:
                from t2v.models.caching import denoisers
                from t2v.models.token_merging import tokens_merged

                merged = tokens_merged(denoisers(self.pipeline), request.token_merging)
                stack.enter_context(merged)
            if request.guidance_interval:
                from t2v.families.interval import guided_in

                if not self.can_resume:
                    why = "t2v does not know its family" if self.family is None else self.family.why
                    raise UserError(
                        f"guidance_interval={list(request.guidance_interval)}: the steps of a "
                        f"{type(self.pipeline).__name__} cannot be told apart ({why}). "
                        "Leave it out."
                    )
                stack.enter_context(guided_in(self.pipeline, request.guidance_interval, videos))
            if request.prompting.reads:
                from t2v.families.prompting import read_by

                stack.enter_context(read_by(self.pipeline, request.prompting))
            yield

    def _call(
        self,
        given: dict[str, Any],
        generators: list[torch.Generator],
        request: Request,
        watch: Watcher | None,
        start: Start | None,
    ) -> Any:
        """The output of the pipeline's call, whose steps are shown to `watch`."""
        given["output_type"] = "latent" if self.gives_latents else "np"
        shown = None if watch is None else partial(self._show, watch, request)
        calls_back = "callback_on_step_end" in self.parameters
        if not self.can_resume:
            assert start is None, "it cannot resume"
            if calls_back and shown is not None:
                given["callback_on_step_end"] = _callback(
                    lambda index, latents: shown(Step(index + 1, latents))
                )
            output = self.pipeline(**given)
            self.sound = self._sound(getattr(output, "audio", None), request)
            return output.frames
        steps = Steps(self.pipeline, generators, calls_back, shown, start)
        if calls_back:
            given["callback_on_step_end"] = _callback(lambda _, latents: steps.end_of_step(latents))
        with steps.followed():
            return self.pipeline(**given).frames

    def _show(self, watch: Watcher, request: Request, step: Step) -> None:
        """Hand a step to `watch`, its latents `b c t h w` where the family's are known."""
        if not self.gives_latents:
            return watch(step)
        before = None if step.before is None else self._unpacked(step.before, request)
        latents = self._unpacked(step.latents, request)
        return watch(replace(step, latents=latents, before=before))

    def _arguments(self, conditions: list[Asked], request: Request) -> dict[str, Any]:
        """The arguments of the call, by its own names."""
        frames = request.num_frames
        padded = frames
        if frames and self.family is not None:
            padded = self.family.frames(self.pipeline, frames)
        elif frames:
            stride = temporal(self.pipeline)
            padded = -(-(frames - 1) // stride) * stride + 1
        prompts = [pictures.read(prompt, seen) for prompt, seen in conditions]
        wanted = {
            "prompt": prompts if len(prompts) > 1 else prompts[0],
            "negative_prompt": request.negative_prompt or None,
            "height": request.height,
            "width": request.width,
            "num_frames": padded,
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            "strength": request.strength if "strength" in self.takes else None,
        }
        if self.family is not None:
            wanted |= self.family.told
            wanted |= {} if self.family.rate is None else {self.family.rate: request.fps}
        if conditions[0][1] is not None:
            seen = conditions[0][1]
            wanted |= pictures.arguments(seen, self.takes, padded)
            wanted |= pictures.references(self.pipeline, seen, self.parameters)
        named = {self._name(name): value for name, value in wanted.items()}
        return {
            name: value
            for name, value in named.items()
            if name in self.parameters and value is not None
        }

    def _frames(self, output: Any, request: Request) -> Tensor:
        """Frames `b t h w c` in [0, 1] of a call that decodes itself, as many as were asked for."""
        videos = torch.from_numpy(np.asarray(output)[:, : request.num_frames])
        refuse_bad(type(self.pipeline).__name__, videos, self.pipeline.dtype)
        if request.num_frames and videos.shape[1] < request.num_frames:
            raise UserError(
                f"num_frames={request.num_frames}: {type(self.pipeline).__name__} gave "
                f"{videos.shape[1]} frames. Ask for as many."
            )
        return videos

    def _sound(self, audio: Tensor | None, request: Request) -> Sound | None:
        """The sound `1 channel n` of a call, as long as the frames that were asked for."""
        if audio is None or len(audio) > 1:  # of several videos nothing is written
            return None
        rate = int(self.pipeline.vocoder.config.output_sampling_rate)
        asked = request.num_frames, request.fps
        length = None if None in asked else round(asked[0] / asked[1] * rate)  # type: ignore
        samples = audio[0, :, :length].float()
        refuse_bad("vocoder", samples, self.pipeline.vocoder.dtype)
        return Sound(samples.clamp(-1, 1).cpu().numpy(), rate)

    @torch.no_grad()
    def decode(self, latents: Tensor, num_frames: int | None, upscale: int = 1) -> np.ndarray:
        assert upscale == 1, "`check` refuses others"
        if not self.gives_latents:
            return to_uint8(latents.numpy())
        assert self.family is not None
        family, vae = self.family, self.pipeline.vae
        ready = self._denormalized(latents)
        video = vae.decode(ready, return_dict=False, **family.decode(self.pipeline, ready))[0]
        refuse_bad("vae", video, vae.dtype)
        videos = video[:, :, :num_frames].split(1)
        return np.stack([as_frames(self.pipeline, each) for each in videos])

    @torch.no_grad()
    def decode_pieces(
        self, latents: Tensor, num_frames: int | None, upscale: int = 1
    ) -> Iterator[np.ndarray]:
        vae = getattr(self.pipeline, "vae", None)
        if not self.gives_latents or not hasattr(vae, "decode_pieces"):
            yield self.decode(latents, num_frames, upscale)[0]
            return
        for piece in pieces_of(vae, self._denormalized(latents), num_frames):
            yield as_frames(self.pipeline, piece)

    def _denormalized(self, latents: Tensor) -> Tensor:
        """Latents as the VAE takes them, where it computes."""
        vae = self.pipeline.vae
        assert self.family is not None and self.family.denormalize is not None
        ready = latents.to(get_module_execution_device(vae))
        return self.family.denormalize(self.pipeline, ready).to(vae.dtype)


def check_sides(name: str, multiple: int, height: int | None, width: int | None) -> None:
    """Raise `UserError` where a pipeline's videos cannot have such sides.

    Args:
        name: of its class.
        multiple: pixels that its sides are multiples of.
    """
    for side, value in (("height", height), ("width", width)):
        if value is not None and value % multiple:
            below = value // multiple * multiple
            near = " or ".join(str(each) for each in (below, below + multiple) if each)
            raise UserError(
                f"{side}={value}: {name} makes multiples of {multiple} pixels. Give {near}."
            )


def _callback(end_of_step: Callable[[int, Tensor], None]) -> Callable[..., dict[str, Any]]:
    """`end_of_step` of a number and latents, as pipelines call back."""

    def callback(
        pipeline: Any, index: int, timestep: Tensor, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        end_of_step(index, tensors["latents"])
        return {}

    return callback
