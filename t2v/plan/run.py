"""`t2v plan`: traces the work, corrects it by measurement, and finds what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from t2v.config.plan import PlanConfig
from t2v.config.sampling import SampleConfig
from t2v.config.training import TrainVAEConfig
from t2v.data.world_shards import read_rendered
from t2v.errors import UserError
from t2v.io.manifest import is_rendered
from t2v.models.device import free_memory, pick_device, pick_dtype
from t2v.plan.calibrate import SPARE, calibrated, micro_steps, smaller
from t2v.plan.estimate import DEFAULTS, GIB, Correction, Estimate, Figure, estimate
from t2v.plan.measure import Measured, measure, measured_rates
from t2v.plan.shapes import Target, planned_size
from t2v.plan.trace import Rates
from t2v.training.engine.example import Size

UNKNOWN = Rates(1, 1, 1, 1)


@dataclass(frozen=True)
class Remedy:
    """A change, and the peak with it."""

    words: str
    peak: Figure


@dataclass(frozen=True)
class Plan:
    """Everything `t2v plan` tells."""

    config: PlanConfig
    target: Target
    estimate: Estimate
    correction: Correction
    timed: bool  # is the device's speed known?
    device: str
    rates: Rates
    data: int  # bytes of the data that training holds in memory
    clips: int | None
    disk: dict[str, int]
    allowed: int | None  # bytes that may be used
    variants: tuple[Remedy, ...]
    remedies: tuple[Remedy, ...]
    micro: tuple[tuple[Estimate, Measured], ...]
    measured: Measured | None

    @property
    def peak(self) -> Figure:
        return self.estimate.peak(self.correction)

    def holds(self, peak: Figure) -> bool:
        """Does it fit the memory, at its worst and beside the data?"""
        return self.allowed is None or peak.most + self.data <= SPARE * self.allowed


def plan(config: PlanConfig, target: Target) -> Plan:
    """What `target` will take: see `PlanConfig`.

    Raises:
        UserError: a size or folder does not fit, or the device at hand is not the one planned.
    """
    asked = {name: getattr(config, name) for name in ("num_frames", "height", "width")}
    size = planned_size(target, asked, config.text_tokens)
    device, rates, name = _device(config, target)
    if target.device == "auto":
        target = replace(target, device=device.type)
    if isinstance(target, SampleConfig) and target.dtype == "auto":  # which is the device's choice
        dtype: Literal["fp32", "bf16"] = "bf16" if device.type == "cuda" else "fp32"
        target = replace(target, dtype=dtype)
    correction = DEFAULTS.get(device.type, DEFAULTS["cuda"])
    whole = estimate(target, size, rates or UNKNOWN)
    allowed = int(config.memory * GIB) if config.memory else None
    if allowed is None and rates is not None and config.tflops is None:
        allowed = free_memory(device)
    if (config.calibrate or config.verify) and rates is None:
        raise UserError(f"device={target.device} is not here: it cannot be measured.")
    micro: tuple[tuple[Estimate, Measured], ...] = ()
    if config.calibrate:
        assert rates is not None
        micro = micro_steps(target, size, rates, allowed)
        correction = calibrated(whole, micro, correction)
    rendered = _rendered(target)
    clips = config.clips or rendered
    done = Plan(
        config=config,
        target=target,
        estimate=whole,
        correction=correction,
        timed=rates is not None,
        device=name,
        rates=rates or UNKNOWN,
        data=_data(target, whole, clips or 0) if rendered else 0,
        clips=clips,
        disk=_disk(target, whole, clips),
        allowed=allowed,
        variants=tuple(_remedies(_variants(target, size), correction)),
        remedies=(),
        micro=micro,
        measured=None,
    )
    if done.holds(done.peak):
        return replace(done, measured=measure(target, size)) if config.verify else done
    tried = []
    for remedy in _remedies(_smaller_ways(done), correction):
        tried.append(remedy)
        if done.holds(remedy.peak):
            break
    return replace(done, remedies=tuple(tried))


def _device(config: PlanConfig, target: Target) -> tuple[torch.device, Rates | None, str]:
    """Where the work would run, how fast that is (None: not here), and its name."""
    trains = not isinstance(target, SampleConfig)
    if config.tflops and config.bandwidth:
        rate = 1e12 * config.tflops
        kind = "cpu" if target.device == "cpu" else "cuda"
        # a kernel is launched in some 5 microseconds
        rates = Rates(rate, rate, rate, 1e9 * config.bandwidth, 5e-6)
        return torch.device(kind), rates, f"{config.tflops:g} TFLOP/s, {config.bandwidth:g} GB/s"
    try:
        device = pick_device(target.device)
    except UserError:
        return torch.device("cuda"), None, f"{target.device}, which is not here"
    if isinstance(target, SampleConfig):
        dtype = pick_dtype(target.dtype, device)
    else:
        dtype = torch.bfloat16 if target.precision == "bf16" else torch.float32
    threads = f"{torch.get_num_threads()} threads of this " if device.type == "cpu" else "this "
    return device, measured_rates(device, dtype, trains), f"{threads}{device.type}"


def _rendered(target: Target) -> int | None:
    """The number of clips of `t2v world` that the target trains on, or None for other data."""
    if isinstance(target, SampleConfig) or not is_rendered(target.data):
        return None
    return len(read_rendered(target.data))


def _data(target: Target, whole: Estimate, clips: int) -> int:
    """Bytes of a world that training keeps in the host's memory: latents, or pixels and masks.

    Of other data nothing stays there.
    """
    size = whole.size
    if not isinstance(target, TrainVAEConfig):
        return clips * whole.latents
    return clips * size.frames * size.height * size.width * 4


def _disk(target: Target, whole: Estimate, clips: int | None) -> dict[str, int]:
    if isinstance(target, SampleConfig):
        return {"latents kept until they are decoded": 2 * whole.latents}
    # the pipeline, and what training goes on from: what learns, its average, the optimizer
    one = whole.weights + 2 * whole.average + whole.optimizer
    disk = {"a checkpoint": one}
    disk[f"{target.keep_checkpoints} kept, one being written"] = (1 + target.keep_checkpoints) * one
    if not isinstance(target, TrainVAEConfig):
        disk["latents of a clip"] = whole.latents
        if clips:
            disk[f"latents of {clips} clips"] = clips * whole.latents
    return disk


def _remedies(ways: Iterator[tuple[str, Target, Size]], correction: Correction) -> Iterator[Remedy]:
    for words, target, size in ways:
        yield Remedy(words, estimate(target, size, UNKNOWN).peak(correction))


def _variants(target: Target, size: Size) -> Iterator[tuple[str, Target, Size]]:
    """The same training with and without what trades memory for time."""
    if isinstance(target, SampleConfig):
        return
    kernels = (None,) if isinstance(target, TrainVAEConfig) else ("native", "_native_math")
    for kernel in kernels:
        for checkpointing in (False, True):
            changes: dict[str, Any] = {"gradient_checkpointing": checkpointing}
            if kernel:
                changes["attention"] = kernel
            words = " ".join(f"{name}={str(value).lower()}" for name, value in changes.items())
            yield words, replace(target, **changes), size


def _fitting_batch(over: Plan, target: Target) -> int:
    """The largest batch that fits, or 1: near the size that does not, memory is a line over it."""
    whole = over.estimate.size.batch
    half = whole // 2
    fewer, more = (
        estimate(target, replace(over.estimate.size, batch=batch), UNKNOWN).peak(over.correction)
        for batch in (half, whole)
    )
    room = SPARE * (over.allowed or 0) - over.data - fewer.most
    if room >= 0 or more.most <= fewer.most:
        return half
    each = (more.most - fewer.most) / (whole - half)
    return max(1, int(half + 1.01 * room / each))


def _smaller_ways(over: Plan) -> Iterator[tuple[str, Target, Size]]:
    """What to change, one thing after the other, until it fits."""
    target, size = over.target, over.estimate.size
    words: list[str] = []
    if isinstance(target, SampleConfig):
        if target.dtype != "bf16":
            words, target = ["dtype=bf16"], replace(target, dtype="bf16")
            yield " ".join(words), target, size
    else:
        if not isinstance(target, TrainVAEConfig) and target.attention == "_native_math":
            words, target = ["attention=native"], replace(target, attention="native")
            yield " ".join(words), target, size
        if not target.gradient_checkpointing:
            words.append("gradient_checkpointing=true")
            target = replace(target, gradient_checkpointing=True)
            yield " ".join(words), target, size
        if size.batch > 1:
            size = replace(size, batch=_fitting_batch(over, target))
            times = -(-over.estimate.size.batch // size.batch) * target.accumulate
            yield " ".join([*words, f"batch_size={size.batch} accumulate={times}"]), target, size
    for _ in range(4):
        if smaller(size) == size:
            return
        size = smaller(size)
        given = f"num_frames={size.frames} height={size.height} width={size.width}"
        batch = [] if isinstance(target, SampleConfig) else [f"batch_size={size.batch}"]
        yield " ".join([*words, *batch, given]), target, size
