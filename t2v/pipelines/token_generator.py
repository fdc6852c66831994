"""`T2VTokenPipeline` as a generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from t2v.errors import UserError
from t2v.models.code_head import is_causal
from t2v.models.finite import refuse_bad
from t2v.pipelines.generator import Request, Start, Step, Watcher
from t2v.pipelines.known import Pair
from t2v.pipelines.t2v_generator import T2VGenerator
from t2v.pipelines.tokens import T2VTokenPipeline
from t2v.pipelines.visuals import VisualInputs

FIRST_FRAMES = frozenset({"image", "video"})


class TokenGenerator(T2VGenerator):
    """A `T2VTokenPipeline`, equal to its call bit for bit, as `T2VGenerator` is."""

    pipeline_class: ClassVar[type[DiffusionPipeline]] = T2VTokenPipeline

    @property
    def can_resume(self) -> bool:
        """True of a masked model: the codes before a step are all that the step goes by."""
        return not is_causal(self.pipeline.transformer)

    @property
    def takes(self) -> frozenset[str]:
        """The names of what its transformer takes, without edits; of a causal one first frames."""
        found = super().takes - {"strength"}
        return found & FIRST_FRAMES if is_causal(self.pipeline.transformer) else found

    def check(self, prompt: str, request: Request, visuals: VisualInputs | None = None) -> None:
        super().check(prompt, request, visuals)
        asked = {
            f"cache={request.cache}": request.cache != "none",
            f"token_merging={request.token_merging:g}": request.token_merging > 0,
            f"guidance_interval={list(request.guidance_interval)}": bool(request.guidance_interval)
            and is_causal(self.pipeline.transformer),
            f"image_guidance_scale={request.image_guidance_scale:g}": (
                request.image_guidance_scale != 1
            ),
            f"strength={request.strength}": request.strength is not None,
        }
        if wrong := [name for name, given in asked.items() if given]:
            raise UserError(
                f"{' '.join(wrong)}: for a model of latents with noise, and this one is of codes. "
                f"Leave {'it' if len(wrong) == 1 else 'them'} out."
            )
        if is_causal(self.pipeline.transformer) and request.num_inference_steps not in (None, 1):
            raise UserError(
                f"num_inference_steps={request.num_inference_steps}: this model makes one code "
                "after the other, each once. Leave it out."
            )

    def _generate(
        self,
        conditions: Pair,
        request: Request,
        seeds: Sequence[int],
        watch: Watcher | None,
        start: Start | None,
    ) -> Tensor:
        positive, negative = conditions
        done = 0 if start is None else start.step
        assert request.num_inference_steps is not None and request.guidance_scale is not None
        if start is not None and done >= request.num_inference_steps:
            return start.latents
        guidance = self._guidance(request, 0) if request.guidance_interval else None

        def told(index: int, latents: Tensor) -> None:
            assert watch is not None
            watch(Step(index + 1, latents))

        sizes: dict[str, Any] = {n: getattr(request, n) for n in ("height", "width", "num_frames")}
        pipeline: Any = self.pipeline
        latents: Tensor = pipeline.generate(
            positive,
            negative,
            **sizes,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            latents=None if start is None else start.latents,
            guidance=guidance,
            watch=None if watch is None else told,
            first_step=done,
        )
        self.pipeline.maybe_free_model_hooks()
        refuse_bad("transformer", latents, self.pipeline.transformer.dtype)
        return latents
