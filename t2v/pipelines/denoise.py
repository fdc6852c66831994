"""The sampling loop and its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2v.errors import UserError
from t2v.models.conditions import Conditions
from t2v.models.guidance import Groups, Guidance, SchedulerStep
from t2v.models.kernels.products import packed_weights
from t2v.models.known import pictures_held, put_back
from t2v.models.schedule import scaled_input, step_options
from t2v.models.stages import StagedGuidance

Function = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]
Watch = Callable[[int, Tensor], None]
STEPS_TO_PACK_FOR = 8
TENSORS = ("latents", "prompt_embeds", "negative_prompt_embeds")


def step_callback(function: Function | None, names: Sequence[str]) -> StepCallback | None:
    """Check a `callback_on_step_end` and the tensors it asks for.

    Args:
        names: of the tensors; diffusers' own callback classes name theirs themselves.

    Raises:
        UserError: there is no tensor of such a name.
    """
    names = getattr(function, "tensor_inputs", names)
    if unknown := [name for name in names if name not in TENSORS]:
        raise UserError(
            f"callback_on_step_end_tensor_inputs={unknown}: choose from {list(TENSORS)}."
        )
    return None if function is None else StepCallback(function, names)


@dataclass(frozen=True)
class StepCallback:
    """diffusers' `callback_on_step_end`, and the tensors it is shown and may replace."""

    function: Function
    names: Sequence[str]

    def __call__(
        self,
        pipeline: Any,
        index: int,
        timestep: Tensor,
        latents: Tensor,
        positive: Conditions,
        negative: Conditions | None,
    ) -> tuple[Tensor, Conditions, Conditions | None]:
        """Return latents and conditions for the next step, with the tensors that it replaced."""
        tensors: dict[str, Any] = {
            "latents": latents,
            "prompt_embeds": positive.text,
            "negative_prompt_embeds": None if negative is None else negative.text,
        }
        shown = {name: tensors[name] for name in self.names}
        tensors |= self.function(pipeline, index, timestep, shown) or {}
        positive = positive.with_text(tensors["prompt_embeds"])
        if negative is not None:
            negative = negative.with_text(tensors["negative_prompt_embeds"])
        return tensors["latents"], positive, negative


def denoise(
    pipeline: Any,
    latents: Tensor,
    positive: Conditions,
    negative: Conditions | None,
    guidance: Guidance | StagedGuidance,
    generators: list[torch.Generator],
    callback: StepCallback | None,
    watch: Watch | None,
) -> Tensor:
    """Take `latents` from noise to data along the timesteps of the pipeline's scheduler.

    Args:
        callback: may change latents, text, weights and adapters.
        watch: called with each step's index and latents, and changes nothing.
    """
    scheduler, groups = pipeline.scheduler, Groups()
    timesteps, options = scheduler.timesteps, step_options(scheduler, generators)
    sigmas = scheduler.sigmas.tolist() if hasattr(scheduler, "sigmas") else None
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    pipeline._num_timesteps = len(timesteps)
    # a callback may merge adapters, which packed weights would not show; packing costs a step, and
    # a cache leaves too few passes to win it back
    is_worth_it = (
        callback is None and len(timesteps) >= STEPS_TO_PACK_FOR and not guidance.leaves_out
    )
    packed = packed_weights() if is_worth_it else nullcontext()
    with packed, pipeline.progress_bar(total=len(timesteps)) as bar:
        for i, t in enumerate(timesteps):
            if pipeline.interrupt:
                continue
            pipeline._current_timestep = t
            step = SchedulerStep(t, i, len(timesteps), sigmas[i] if sigmas else None)
            scaled = scaled_input(scheduler, latents, t)
            scale, visual_scale = pipeline.guidance_scale, pipeline.image_guidance_scale
            prediction = guidance(scaled, positive, negative, scale, step, groups, visual_scale)
            latents = scheduler.step(prediction, t, latents, **options)[0]
            following = timesteps[i + 1] if i + 1 < len(timesteps) else torch.zeros_like(t)
            latents = put_back(latents, positive, t, following)
            if i + 1 == len(timesteps):  # before it is watched: kept latents are finished ones
                latents = pictures_held(pipeline.vae, latents, positive)
            if watch is not None:
                watch(i, latents)
            if callback is not None:
                latents, positive, negative = callback(pipeline, i, t, latents, positive, negative)
                groups = Groups()  # it may have changed adapters, or the text in place
            bar.update()
    pipeline._current_timestep = None
    return latents
