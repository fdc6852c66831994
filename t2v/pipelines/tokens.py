"""`T2VTokenPipeline`: a prompt becomes codes, many at once or one by one, and these a video."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from t2v.errors import UserError
from t2v.models.alone import alone
from t2v.models.conditions import Conditions
from t2v.models.inputs import check_latents, latent_shape, warn_outside
from t2v.models.known import pictures_held
from t2v.models.schedule import sample_generators
from t2v.models.stages import make_guidance
from t2v.pipelines.denoise import StepCallback, Watch
from t2v.pipelines.latent_videos import Generators
from t2v.pipelines.registration import register
from t2v.pipelines.t2v import T2VPipeline


class T2VTokenPipeline(T2VPipeline):
    """Text to video by the codes of a VAE with a quantizer; all else is as in `T2VPipeline`.

    The scheduler says how: `MaskedCodeScheduler` fills masked codes in a few steps,
    `NextCodeScheduler` makes one patch of codes after the other. Latents are those of codes.
    """

    @alone
    @torch.no_grad()
    def generate(
        self,
        positive: Conditions,
        negative: Conditions | None,
        *,
        height: int,
        width: int,
        num_frames: int,
        num_inference_steps: int,
        guidance_scale: float,
        generator: Generators = None,
        latents: Tensor | None = None,
        guidance: Any = None,
        callback: StepCallback | None = None,
        watch: Watch | None = None,
        first_step: int = 0,
        **others: Any,
    ) -> Tensor:
        """Sample normalised latents of codes, `b c t h w`, a video for each row of the conditions.

        Args, besides those of `T2VPipeline.generate`:
            num_inference_steps: of a masked model; one that makes patch after patch takes 1.
            latents: codes to go on from, as `watch` gets them.
            first_step: the number of the first step with these latents.

        Raises:
            UserError: what a model of codes does not do, or a size that does not fit the model.
        """
        from t2v.models.code_head import is_causal  # most pipelines make no codes
        from t2v.pipelines.code_course import Course

        self._refuse(others)
        warn_outside(self.config, self._warned, height=height, width=width, num_frames=num_frames)
        shape = latent_shape(self.transformer, self.vae, len(positive), num_frames, height, width)
        guidance = guidance or make_guidance(self)
        self._guidance_scale, self._attention_kwargs = guidance_scale, guidance.attention_kwargs
        self._image_guidance_scale, self._interrupt = 1.0, False
        generators = sample_generators(generator, len(positive))
        if latents is not None:
            check_latents(latents, shape)
        codes, given = self._begin(shape, positive, latents)
        bare = replace(positive, known=None, known_mask=None)
        away = None if negative is None else replace(negative, known=None, known_mask=None)
        course = Course(self, codes, given, (bare, away), generators, (callback, watch))
        if is_causal(self.transformer):
            course.next(num_inference_steps)
        else:
            course.fill(guidance, num_inference_steps, first_step)
        self._current_timestep = None
        return pictures_held(self.vae, course.latents(), positive)

    def _refuse(self, others: dict[str, Any]) -> None:
        """Raise `UserError` for what needs latents that are noised little by little."""
        words = {
            "strength": "an edit starts from a clip with noise. Give a mask, which remakes a part",
            "sigmas": "there are no times of a flow. Give num_inference_steps",
            "lag": "a film without end is made frame by frame of noise. Take a story of scenes",
        }
        for name, why in words.items():
            if others.get(name):
                raise UserError(f"{name}={others[name]}: a model of codes has no noise; {why}.")
        if others.get("image_guidance_scale", 1.0) != 1:
            raise UserError(
                f"image_guidance_scale={others['image_guidance_scale']:g}: what a model of codes "
                "is given stands among its codes and is not guided to. Leave it out."
            )

    def _begin(
        self, shape: tuple[int, ...], positive: Conditions, latents: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The codes before the first step and which of them are given, both `b t h w`."""
        head, device = self.transformer.code_head, self._execution_device
        codes = torch.full((shape[0], *shape[2:]), len(head.table), device=device)
        given = torch.zeros_like(codes, dtype=torch.bool)
        if latents is not None:
            codes = head.codes_so_far(latents.to(device))
        if positive.known is not None:
            assert positive.known_mask is not None
            mask = positive.known_mask[:, 0].to(device)
            if ((mask > 0) & (mask < 1)).any():
                raise UserError(
                    "A picture or clip is given with a strength below 1, and a model of codes has "
                    "a code or has it not. Give strength 1."
                )
            given = mask.expand_as(codes) > 0
            codes = torch.where(given, head.codes(positive.known.to(device)), codes)
        return codes, given


register(T2VTokenPipeline)
