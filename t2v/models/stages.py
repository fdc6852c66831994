"""Guidance of two transformers: one for the noisier times of a sampling run, one for the rest."""

from __future__ import annotations

from typing import Any

from diffusers.guiders import BaseGuidance
from torch import Tensor

from t2v.errors import UserError
from t2v.models.conditions import Conditions
from t2v.models.guidance import CFGMode, Groups, Guidance, SchedulerStep


class StagedGuidance:
    """The predictions of the transformer whose turn it is (Wan 2.2 A14B).

    Args:
        noisy, clean: guidance of the transformers for the times from `boundary` on, and below it.
        boundary: a timestep of the scheduler.
        clean_scale: guidance scale of the second; None: that of the first.
    """

    def __init__(
        self, noisy: Guidance, clean: Guidance, boundary: float, clean_scale: float | None
    ) -> None:
        self.noisy, self.clean = noisy, clean
        self.boundary, self.clean_scale = boundary, clean_scale
        self._groups = self._clean_groups = Groups()

    @property
    def attention_kwargs(self) -> dict[str, Any]:
        """The keywords that both transformers are handed."""
        return self.noisy.attention_kwargs

    @property
    def leaves_out(self) -> bool:
        """True where a cache leaves passes out."""
        return self.noisy.leaves_out

    def __call__(
        self,
        latents: Tensor,
        positive: Conditions,
        negative: Conditions | None,
        scale: float,
        step: SchedulerStep,
        groups: Groups,
        visual_scale: float = 1.0,
    ) -> Tensor:
        """Return the prediction that the scheduler steps along; see `Guidance`."""
        if groups is not self._groups:  # they start anew, so what belongs to the second does too
            self._groups, self._clean_groups = groups, Groups()
        guidance = self.noisy
        if float(step.timestep) < self.boundary:
            guidance, groups = self.clean, self._clean_groups
            scale = scale if self.clean_scale is None else self.clean_scale
        return guidance(latents, positive, negative, scale, step, groups, visual_scale)


def make_guidance(
    pipeline: Any,
    mode: CFGMode | None = None,
    guider: BaseGuidance | None = None,
    attention_kwargs: dict[str, Any] | None = None,
    guidance_scale_2: float | None = None,
    guided: range | None = None,
) -> Guidance | StagedGuidance:
    """The guidance of a pipeline's transformer, or of its two.

    Args:
        mode, guider, attention_kwargs, guided: see `Guidance`.
        guidance_scale_2: the scale of the second transformer. None: as saved with the pipeline, or
            else that of the first.

    Raises:
        UserError: a scale for a second transformer that is not there.
    """
    guidance = Guidance(pipeline.transformer, mode, guider, attention_kwargs, guided)
    if pipeline.transformer_2 is None:
        if guidance_scale_2 is not None:
            raise UserError(
                f"guidance_scale_2={guidance_scale_2}: this model has one transformer, so it takes "
                "guidance_scale alone. Leave it out."
            )
        return guidance
    second = Guidance(pipeline.transformer_2, mode, guider, attention_kwargs, guided)
    boundary = pipeline.config.boundary_ratio * pipeline.scheduler.config.num_train_timesteps
    saved = pipeline.config.guidance_scale_2
    scale = saved if guidance_scale_2 is None else guidance_scale_2
    return StagedGuidance(guidance, second, boundary, scale)
