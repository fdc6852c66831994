"""`T2VPipeline` as a generator: latents first, which can be kept, and then frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin, SchedulerMixin
from torch import Tensor

from t2v.config.visual_tasks import taken
from t2v.errors import UserError
from t2v.models.finite import refuse_bad
from t2v.models.guidance import CFGMode, Guidance
from t2v.models.inputs import latent_shape
from t2v.models.known import check_references
from t2v.models.schedule import edit_sigmas
from t2v.models.stages import StagedGuidance, make_guidance
from t2v.models.upscaler import check_scale
from t2v.pipelines.generator import Request, Start, Step, Watcher, as_frames
from t2v.pipelines.known import Pair
from t2v.pipelines.prompts import refuse_split
from t2v.pipelines.students import check_student, is_student
from t2v.pipelines.t2v import T2VPipeline
from t2v.pipelines.visuals import VisualInputs, spoken

logger = logging.getLogger(__name__)

# settings of the Euler scheduler: noise in each step, and times that depend on how many there are
NOT_RESUMABLE = (
    *("stochastic_sampling", "use_karras_sigmas"),
    *("use_exponential_sigmas", "use_beta_sigmas"),
)


class T2VGenerator:
    """A `T2VPipeline`; equal to `pipeline(prompt, generator=torch.Generator().manual_seed(seed))`,
    bit for bit."""

    pipeline_class: ClassVar[type[DiffusionPipeline]] = T2VPipeline
    gives_latents: ClassVar[bool] = True
    is_trainable: ClassVar[bool] = True
    sound = None

    def __init__(self, pipeline: T2VPipeline) -> None:
        self.pipeline = pipeline
        self._told: set[str] = set()  # prompts whose tokens were told

    @property
    def defaults(self) -> Request:
        saved = self.pipeline.config
        return Request(
            height=saved.height,
            width=saved.width,
            num_frames=saved.num_frames,
            fps=saved.fps,
            num_inference_steps=saved.num_inference_steps,
            guidance_scale=saved.guidance_scale,
            upscale=check_scale(None, self.pipeline.upscaler, "upscale"),
        )

    @property
    def can_resume(self) -> bool:
        """True of plain Euler steps: other schedulers remember earlier steps, add noise in each, or
        space their times by the number of steps."""
        scheduler = self.pipeline.scheduler
        return isinstance(scheduler, FlowMatchEulerDiscreteScheduler) and not any(
            scheduler.config[name] for name in NOT_RESUMABLE
        )

    @property
    def vae(self) -> ModelMixin:
        return self.pipeline.vae

    @property
    def takes(self) -> frozenset[str]:
        config = self.pipeline.transformer.config
        settings = config.conditioning, config.picture_tokens, config.get("references", 0)
        return taken(*settings, is_student=is_student(self.pipeline))

    def check(self, prompt: str, request: Request, visuals: VisualInputs | None = None) -> None:
        goes_on = visuals is not None and visuals.video is not None and request.strength is None
        if goes_on and self.pipeline.transformer.config.conditioning == "none":
            raise UserError(
                "video is given without strength, and this model takes a clip to edit only. "
                "Give strength, such as 0.6, or a model trained to go on from clips."
            )
        references = 0 if visuals is None else len(visuals.reference_images)
        check_references(self.pipeline.transformer, references)
        prompt = spoken(prompt, references)
        height, width = cast(int, request.height), cast(int, request.width)
        self.pipeline.check_inputs(prompt, request.negative_prompt, height, width)
        check_scale(request.upscale, self.pipeline.upscaler, "upscale")
        check_student(
            self.pipeline,
            num_inference_steps=request.num_inference_steps,
            is_guided=cast(float, request.guidance_scale) > 1,
            strength=request.strength,
            seen=[] if visuals is None else visuals.names(),
        )
        if request.prompting.reads:
            self._check_read(prompt, request)
            return
        for name, text in (("prompt", prompt), ("negative_prompt", request.negative_prompt)):
            count, limit = self.pipeline.count_tokens(text)
            if count > limit and not request.truncate:
                raise UserError(
                    f"The {name} takes {count} tokens and {limit} fit: {text[:60]!r}... "
                    "Shorten it, or ask for it to be cut off with --truncate."
                )
        if prompt not in self._told:
            logger.info("%r: tokens %d/%d", prompt, *self.pipeline.count_tokens(prompt))
        self._told.add(prompt)

    def _check_read(self, prompt: str, request: Request) -> None:
        """Raise `UserError` where a prompt whose signs are read does not fit, as `check` does."""
        reader = self.pipeline.reader(request.prompting, request.truncate)
        scenes = reader.check(prompt)
        reader.check_negative(request.negative_prompt)
        times = self.pipeline.film_times(cast(int, request.num_frames), cast(float, request.fps))
        times.scenes(scenes)
        if len(scenes) > 1:
            refuse_split(self.pipeline.transformer)
        if prompt not in self._told:
            tokens = [reader.count(scene) for scene in scenes]
            logger.info("%r: tokens %s/%d", prompt, "+".join(map(str, tokens)), reader.limit)
        self._told.add(prompt)

    @torch.no_grad()
    def encode(
        self,
        prompts: Sequence[str],
        request: Request,
        visuals: Sequence[VisualInputs | None] = (),
    ) -> Pair:
        """The conditions of prompts and of what is seen, and for guidance the negative ones."""
        scale = cast(float, request.guidance_scale)
        if request.negative_prompt and scale <= 1:
            logger.warning(
                "negative_prompt=%r does nothing at guidance_scale=%g: give more than 1.",
                request.negative_prompt,
                scale,
            )
        seen = [each or VisualInputs() for each in visuals]
        shown = [len(each.reference_images) for each in seen] or [0]
        shown = shown * (len(prompts) // len(shown))
        read = [spoken(each, count) for each, count in zip(prompts, shown, strict=True)]
        pair = self.pipeline.encode_conditions(read, request)
        if not any(each is not None for each in visuals):
            return pair
        sizes = cast(tuple[int, int, int], (request.num_frames, request.height, request.width))
        return self.pipeline.add_visuals(pair, seen, *sizes, request.strength)

    def latent_shape(self, request: Request) -> tuple[int, ...]:
        sizes = cast(tuple[int, int, int], (request.num_frames, request.height, request.width))
        return latent_shape(self.pipeline.transformer, self.pipeline.vae, 1, *sizes)

    def generate(
        self,
        conditions: Pair,
        request: Request,
        seeds: Sequence[int],
        watch: Watcher | None = None,
        start: Start | None = None,
    ) -> Tensor:
        """Normalised latents `b c t h w`."""
        if request.cache != "none":
            return self._generate_cached(conditions, request, seeds, watch, start)
        if request.token_merging:
            from t2v.models.caching import denoisers  # most videos are exact
            from t2v.models.token_merging import tokens_merged

            with tokens_merged(denoisers(self.pipeline), request.token_merging):
                return self._generate(conditions, request, seeds, watch, start)
        return self._generate(conditions, request, seeds, watch, start)

    def _generate_cached(
        self,
        conditions: Pair,
        request: Request,
        seeds: Sequence[int],
        watch: Watcher | None,
        start: Start | None,
    ) -> Tensor:
        """Videos of a cache, one by one: what it leaves out is decided by all that it sees."""
        from t2v.config.caching import cache_of  # most videos are exact
        from t2v.models.caching import cached, refuse_start

        refuse_start(request.cache, start)
        cache = cache_of(request.cache)
        assert cache is not None
        made = []
        for number, seed in enumerate(seeds):
            rows = slice(number, number + 1)
            positive, negative = conditions
            alone = positive.rows(rows), None if negative is None else negative.rows(rows)
            with cached(self.pipeline, cache, request.cache_ratios, request.num_inference_steps):
                made.append(self._generate(alone, request, [seed], watch, None))
        return torch.cat(made)

    def _generate(
        self,
        conditions: Pair,
        request: Request,
        seeds: Sequence[int],
        watch: Watcher | None,
        start: Start | None,
    ) -> Tensor:
        positive, negative = conditions
        steps = cast(int, request.num_inference_steps)
        rest: dict[str, Any] = {"strength": request.strength}
        if request.cache != "none" or request.guidance_interval:
            rest["guidance"] = self._guidance(request, 0 if start is None else start.step)
        if start is not None:
            sigmas = np.linspace(1, 1 / steps, steps).tolist()
            if request.strength is not None:
                sigmas = edit_sigmas(self.pipeline.scheduler, steps, request.strength)
            if start.step >= len(sigmas):
                return start.latents
            rest |= {"latents": start.latents, "sigmas": sigmas[start.step :], "strength": None}
        latents = self.pipeline.generate(
            positive,
            negative,
            height=cast(int, request.height),
            width=cast(int, request.width),
            num_frames=cast(int, request.num_frames),
            num_inference_steps=steps,
            guidance_scale=cast(float, request.guidance_scale),
            image_guidance_scale=request.image_guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            watch=None if watch is None else _Watch(watch, start, self.pipeline.scheduler),
            **rest,
        )
        self.pipeline.maybe_free_model_hooks()
        refuse_bad("transformer", latents, self.pipeline.transformer.dtype)
        return latents

    def _guidance(self, request: Request, done: int) -> Guidance | StagedGuidance:
        """Guidance in a part of the steps, `done` of which are behind; of a cache, in one batch on
        a CPU, where two passes of one row take half as long again as one of two."""
        on_cpu = self.pipeline._execution_device.type == "cpu"
        mode: CFGMode | None = "batched" if on_cpu and request.cache != "none" else None
        guided = None
        if request.guidance_interval:
            steps = cast(int, request.num_inference_steps)
            if request.strength is not None:
                steps = len(edit_sigmas(self.pipeline.scheduler, steps, request.strength))
            first, last = (round(share * steps) for share in request.guidance_interval)
            guided = range(first - done, last - done)
        return make_guidance(self.pipeline, mode, guided=guided)

    def decode(self, latents: Tensor, num_frames: int | None, upscale: int = 1) -> np.ndarray:
        each = (self.decode_pieces(z, num_frames, upscale) for z in latents.split(1))
        return np.stack([np.concatenate(list(pieces)) for pieces in each])

    def decode_pieces(
        self, latents: Tensor, num_frames: int | None, upscale: int = 1
    ) -> Iterator[np.ndarray]:
        for piece in self.pipeline.decode_pieces(latents, num_frames, upscale):
            yield as_frames(self.pipeline, piece)


class _Watch:
    """A watcher of steps as the pipeline's `watch`."""

    def __init__(self, watch: Watcher, start: Start | None, scheduler: SchedulerMixin) -> None:
        self.watch, self.scheduler = watch, scheduler
        self.before = None if start is None else start.latents
        self.first = 0 if start is None else start.step

    def __call__(self, index: int, latents: Tensor) -> None:
        sigmas, before = getattr(self.scheduler, "sigmas", None), self.before
        times = None if sigmas is None else (float(sigmas[index]), float(sigmas[index + 1]))
        self.before = latents
        self.watch(Step(self.first + index + 1, latents, before, times))
