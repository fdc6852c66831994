"""Denoising where each latent frame has a time of its own, the later the noisier."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from einops import rearrange
from torch import Tensor

from t2v.errors import UserError
from t2v.models.conditions import Conditions
from t2v.models.diffusion import NUM_TRAIN_TIMESTEPS
from t2v.models.guidance import Groups, Guidance, SchedulerStep
from t2v.models.known import pictures_held, put_back
from t2v.models.schedule import set_timesteps
from t2v.models.stages import StagedGuidance


def roll(
    pipeline: Any,
    noise: Tensor,
    positive: Conditions,
    negative: Conditions | None,
    guidance: Guidance | StagedGuidance,
    lag: int,
) -> Tensor:
    """Take `noise` to data along the times of the scheduler, each latent frame `lag` steps behind
    the one before.

    A frame is made while those before it are nearly done, as in diffusion forcing (arXiv
    2407.01392) and SkyReels-V2. Frames that are known from the first on do not count.

    Raises:
        UserError: the scheduler is not a plain Euler one of a flow.
    """
    scheduler = pipeline.scheduler
    if isinstance(guidance, StagedGuidance):
        raise UserError(
            f"windows.lag={lag}: this model has two transformers, for one time of all latent "
            "frames each. Use windows.lag=0."
        )
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise UserError(
            f"windows.lag={lag}: a {type(scheduler).__name__} has one time for all latent frames. "
            "Use FlowMatchEulerDiscreteScheduler, or windows.lag=0."
        )
    sigmas = scheduler.sigmas.to(noise.device)
    known = 0
    if positive.known_mask is not None:
        known = int(positive.known_mask[0, 0, :, 0, 0].sum())
    behind = lag * (torch.arange(noise.shape[2], device=noise.device) - known).clamp(min=0)
    last = len(sigmas) - 1
    total, scale = last + int(behind.max()), pipeline.guidance_scale
    latents, groups = noise, Groups()
    with pipeline.progress_bar(total=total) as bar:
        for index in range(total):
            now = sigmas[(index - behind).clamp(0, last)]
            following = sigmas[(index + 1 - behind).clamp(0, last)]
            step = SchedulerStep(now * NUM_TRAIN_TIMESTEPS, index, total, None)
            velocity = guidance(latents, positive, negative, scale, step, groups)
            latents = latents + rearrange(following - now, "t -> t 1 1") * velocity
            bar.update()
    latents = put_back(latents, positive, *sigmas.new_tensor([NUM_TRAIN_TIMESTEPS, 0.0]))
    return pictures_held(pipeline.vae, latents, positive)


def inverted(pipeline: Any, data: Tensor, conditions: Conditions, steps: int) -> Tensor:
    """The noise from which the model makes latents `data`: its path, followed from data to noise.

    DDIM inversion (arXiv 2010.02502, section 4.3) of a flow, without guidance.

    Raises:
        UserError: the scheduler is not a plain Euler one of a flow.
    """
    scheduler = pipeline.scheduler
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise UserError(
            f"windows.noise=inverted: a {type(scheduler).__name__} cannot be followed backwards. "
            "Use FlowMatchEulerDiscreteScheduler, or windows.noise=fresh."
        )
    tokens = data[0, 0].numel() // math.prod(pipeline.transformer.config.patch_size)
    set_timesteps(scheduler, steps, tokens, None, data.device)
    sigmas = scheduler.sigmas.to(data.device).flip(0)  # from 0 to 1
    guidance, groups, latents = Guidance(pipeline.transformer), Groups(), data
    for index, (now, following) in enumerate(pairwise(sigmas)):
        step = SchedulerStep(now * NUM_TRAIN_TIMESTEPS, index, steps, None)
        velocity = guidance(latents, conditions, None, 1.0, step, groups)
        latents = latents + (following - now) * velocity
    return latents
