"""The noise path: noisy latents, their times, and the targets of training."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
)
from einops import rearrange, reduce
from torch import Tensor

from t2v.errors import UserError

Objective = Literal["flow", "v", "epsilon", "masked", "autoregressive"]
Predict = Callable[[Tensor, Tensor], Tensor]  # (noisy b c t h w, timestep b) -> prediction

NUM_TRAIN_TIMESTEPS = 1000


class NoisySample(NamedTuple):
    """The input of the network and its target."""

    latents: Tensor  # b c t h w, noisy
    timestep: Tensor  # b, as the sampling scheduler will pass it
    target: Tensor  # b c t h w


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point at time `t` on the straight path from `data` to `noise`.

    Args:
        data: clean latents, `b c t h w`.
        noise: standard normal, same shape as `data`.
        t: one time per sample in [0, 1], `b`, or one per latent frame, `b t`. 0 is data, 1 is
            noise (diffusers' `sigma`).

    Returns:
        Noisy latents, same shape as `data`.
    """
    t = rearrange(t, "b ... -> b 1 (...) 1 1")
    return (1 - t) * data + t * noise


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """The speed of the straight path, `noise - data` (rectified flow, arXiv 2209.03003)."""
    return noise - data


def random_times(
    objective: Objective, count: int, shift: float, generator: torch.Generator
) -> Tensor:
    """Random times in [0, 1], one per sample, `count`.

    For flow logit-normal, shifted towards noise by `s t / (1 + (s - 1) t)` (arXiv 2403.03206,
    sections 3.1 and 5.3.2); for the others uniform over their schedule.
    """
    if objective == "flow":
        t = torch.randn(count, generator=generator).sigmoid()
        return shift * t / (1 + (shift - 1) * t)
    return torch.rand(count, generator=generator)


def logit_normal_between(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """Logit-normal times in [0, 1] that lie between two of them, `count`."""
    ends = torch.tensor([low, high], dtype=torch.float64).logit()
    below, above = torch.special.ndtr(ends)
    share = torch.rand(count, generator=generator, dtype=torch.float64)
    return torch.special.ndtri(below + (above - below) * share).sigmoid().float()


def build_scheduler(
    objective: Objective, shift: float
) -> FlowMatchEulerDiscreteScheduler | DDIMScheduler:
    """The stock sampling scheduler that belongs to `objective`; it is saved with the weights.

    `shift` concerns flow alone. v runs with zero terminal SNR (arXiv 2305.08891): its last step is
    pure noise, so sampling starts where training did. Epsilon cannot: it would divide by zero.
    """
    if objective == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=shift)
    return DDIMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if objective == "v" else "epsilon",
        rescale_betas_zero_snr=objective == "v",
        timestep_spacing="trailing",
        clip_sample=False,
    )


def objective_of(scheduler: SchedulerMixin) -> tuple[Objective, float]:
    """The objective whose models `scheduler` samples from, and its shift (1 where it has none).

    Raises:
        UserError: its models were trained on a noise path that `add_noise` does not have.
    """
    if hasattr(type(scheduler), "objective"):
        return type(scheduler).objective, 1.0
    config = scheduler.config
    kind = config.get("prediction_type", "flow_prediction")
    if kind == "flow_prediction" and not config.get("use_dynamic_shifting", False):
        return "flow", float(config.get("flow_shift", config.get("shift", 1.0)))
    known: dict[str, Objective] = {"v_prediction": "v", "epsilon": "epsilon"}
    if kind in known:
        ours = build_scheduler(known[kind], shift=1.0).config
        path = "num_train_timesteps beta_schedule beta_start beta_end rescale_betas_zero_snr"
        if all(config.get(name) == ours[name] for name in path.split()):
            return known[kind], 1.0
    raise UserError(
        f"{type(scheduler).__name__} (prediction_type={kind}, use_dynamic_shifting="
        f"{config.get('use_dynamic_shifting', False)}) belongs to models of a "
        "noise path that is not supported. "
        "Use a flow model of a fixed shift, or v or epsilon with the schedules of `t2v train`."
    )


def add_noise(
    objective: Objective, data: Tensor, noise: Tensor, t: Tensor, schedule: Any = None
) -> NoisySample:
    """Noise `data` to time `t`, and compute the target of `objective`.

    Args:
        objective: "flow", "v" or "epsilon".
        data: clean, normalised latents, `b c t h w`.
        noise: standard normal, same shape.
        t: times in [0, 1], `b`; v and epsilon round them to their discrete schedule. Flow also
            takes one of each latent frame, `b t`.
        schedule: scheduler of diffusers whose noise v and epsilon have; None: `noise_schedule`.
    """
    if objective == "flow":
        x = interpolate(data, noise, t)
        return NoisySample(x, NUM_TRAIN_TIMESTEPS * t, velocity(data, noise))
    ddpm = noise_schedule(objective) if schedule is None else schedule
    timestep = (t * (ddpm.config.num_train_timesteps - 1)).round().long()
    target = ddpm.get_velocity(data, noise, timestep) if objective == "v" else noise
    return NoisySample(ddpm.add_noise(data, noise, timestep), timestep, target)


def diffusion_loss(
    objective: Objective,
    predict: Predict,
    data: Tensor,
    noise: Tensor,
    t: Tensor,
    weight: Tensor | None = None,
    schedule: Any = None,
) -> Tensor:
    """Mean squared error of the network's prediction for each sample, `b`, in float32.

    Takes what `add_noise` takes and `predict(noisy, timestep)`, the network with its text bound.
    With a weight, `b 1 t h w` with a positive one in each sample, it is the weighted mean.
    """
    sample = add_noise(objective, data, noise, t, schedule)
    error = (predict(sample.latents, sample.timestep).float() - sample.target).square()
    if weight is None:
        return reduce(error, "b ... -> b", "mean")
    return reduce(error * weight, "b ... -> b", "mean") / reduce(weight, "b ... -> b", "mean")


@lru_cache
def noise_schedule(objective: Objective) -> DDPMScheduler:
    """The schedule of v or epsilon, for training."""
    # The training betas come from the sampling scheduler, so the two cannot drift apart.
    return DDPMScheduler.from_config(build_scheduler(objective, shift=1.0).config)
