"""A sampling run with any scheduler of diffusers: its times and its random numbers."""

import inspect
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from t2v.errors import UserError


def set_timesteps(
    scheduler: SchedulerMixin,
    num_inference_steps: int,
    num_tokens: int,
    sigmas: list[float] | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """Prepare the scheduler for a run and return its timesteps.

    Flow schedulers get the evenly spaced times 1, ..., 1/N to shift. By default they go down to
    their smallest training time and shift twice, which wastes the last of few steps: 4 steps with
    shift 3 are at 1, .858, .602, .009 and not at 1, .9, .75, .5.

    Args:
        num_inference_steps: N, at least 1; not used with `sigmas`.
        num_tokens: video tokens, on which a dynamic shift depends.
        sigmas: times in (0, 1] instead, decreasing.

    Raises:
        UserError: no steps, more than the scheduler has, or sigmas for one that takes none.
    """
    if num_inference_steps < 1 or (sigmas is not None and not len(sigmas)):
        raise UserError(
            f"num_inference_steps={num_inference_steps}, sigmas={sigmas}: give at least one step."
        )
    takes = inspect.signature(scheduler.set_timesteps).parameters
    options: dict[str, Any] = {}
    if sigmas is not None and "sigmas" not in takes:
        raise UserError(f"{type(scheduler).__name__} takes no sigmas. Leave them out.")
    # the others that take sigmas have a prediction_type, and space flow times well or have none
    if sigmas is not None or ("sigmas" in takes and "prediction_type" not in scheduler.config):
        times = np.linspace(1, 1 / num_inference_steps, num_inference_steps)
        options["sigmas"] = times if sigmas is None else np.array(sigmas)
    if "mu" in takes and scheduler.config.get("use_dynamic_shifting", False):
        options["mu"] = dynamic_shift(scheduler, num_tokens)
    steps = len(options["sigmas"]) if "sigmas" in options else num_inference_steps
    try:
        scheduler.set_timesteps(steps, device=device, **options)
    except ValueError as error:  # of DDIM and its like; others interpolate between trained times
        if steps <= (trained := scheduler.config.num_train_timesteps):
            raise
        raise UserError(
            f"num_inference_steps={steps}: {type(scheduler).__name__} has {trained} at most."
        ) from error
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # saves a lookup on the device in every step
    return scheduler.timesteps


def with_shift(scheduler: SchedulerMixin, shift: float) -> SchedulerMixin:
    """A scheduler that shifts its times, in (0, 1], to `shift * t / (1 + (shift - 1) * t)`.

    Raises:
        UserError: it has no such shift, or one that depends on the size of the video.
    """
    config = scheduler.config
    name = "flow_shift" if config.get("use_flow_sigmas", False) else "shift"
    if name not in config or config.get("use_dynamic_shifting", False):
        raise UserError(
            f"shift={shift:g}: a {type(scheduler).__name__} has no fixed shift of a flow's times. "
            "Leave it out."
        )
    return type(scheduler).from_config(config, **{name: shift})


def edit_sigmas(
    scheduler: SchedulerMixin, num_inference_steps: int, strength: float
) -> list[float]:
    """The times, before the scheduler's shift, of an edit that starts at the time `strength`.

    Of the times of `set_timesteps` those below it follow, so at 1 they are all of them.

    Raises:
        UserError: the scheduler has no times of a flow that can be given.
    """
    takes = inspect.signature(scheduler.set_timesteps).parameters
    config = scheduler.config
    spaces_itself = "prediction_type" in config  # Wan's UniPC, where it has the times of a flow
    has_flow = config.get("use_flow_sigmas", False) or not spaces_itself
    if "sigmas" not in takes or not has_flow or config.get("use_dynamic_shifting", False):
        raise UserError(
            f"strength={strength}: a {type(scheduler).__name__} takes no times to start from. Use "
            "FlowMatchEulerDiscreteScheduler, or UniPCMultistepScheduler with use_flow_sigmas, "
            "both with a fixed shift."
        )
    shift = float(config.get("flow_shift", config.get("shift", 1.0)))
    first = strength / (shift - (shift - 1) * strength)
    if spaces_itself:
        times = np.linspace(1, 1 / config.num_train_timesteps, num_inference_steps + 1)[:-1]
    else:
        times = np.linspace(1, 1 / num_inference_steps, num_inference_steps)
    return [first, *times[times < first - 1e-6].tolist()]


def noised(scheduler: SchedulerMixin, source: Tensor, noise: Tensor) -> Tensor:
    """The latents `source` with noise, at the first time of the scheduler's run."""
    first = scheduler.timesteps[:1].to(source.device).expand(len(source))
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(source, first, noise)
    return scheduler.add_noise(source, noise, first)


def dynamic_shift(scheduler: SchedulerMixin, num_tokens: int) -> float:
    """The shift for a video of `num_tokens`, linear between the two saved ends (FLUX.1)."""
    ends = (
        scheduler.config.get("base_image_seq_len", 256),
        scheduler.config.get("max_image_seq_len", 4096),
    )
    shifts = scheduler.config.get("base_shift", 0.5), scheduler.config.get("max_shift", 1.15)
    slope = (shifts[1] - shifts[0]) / (ends[1] - ends[0])
    return shifts[0] + slope * (num_tokens - ends[0])


def scaled_input(scheduler: SchedulerMixin, latents: Tensor, timestep: Tensor) -> Tensor:
    """The latents as the network takes them: some schedulers scale them in each step."""
    if hasattr(scheduler, "scale_model_input"):
        return scheduler.scale_model_input(latents, timestep)
    return latents


def step_options(
    scheduler: SchedulerMixin, generators: list[torch.Generator]
) -> dict[str, list[torch.Generator]]:
    """The optional keywords that `step` of this scheduler takes."""
    takes = inspect.signature(scheduler.step).parameters
    return {"generator": generators} if "generator" in takes else {}


def sample_generators(
    generator: torch.Generator | list[torch.Generator] | None, count: int
) -> list[torch.Generator]:
    """A new CPU generator for each sample, so that a seed gives the same video everywhere.

    Of a generator only the seed counts: neither the numbers taken from it before nor its device
    matter. Sample i of a single generator has the seed `generator.initial_seed() + i`;
    with a list, each sample has the seed of its own. None takes new seeds from torch's global
    generator.

    Raises:
        UserError: a list of another length than `count`.
    """
    if isinstance(generator, list) and len(generator) != count:
        raise UserError(f"{len(generator)} generators for {count} videos: give one, or {count}.")
    if generator is None:
        seeds = torch.randint(2**63 - 1, (count,)).tolist()
    elif isinstance(generator, list):
        seeds = [each.initial_seed() for each in generator]
    else:
        seeds = [generator.initial_seed() + i for i in range(count)]
    return [torch.Generator().manual_seed(seed) for seed in seeds]
