"""The bytes, FLOP and seconds of a work, from a trace of its stages, and what corrects them."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName

from t2v.config.finetune import FinetuneConfig
from t2v.config.training import TrainDiTConfig
from t2v.models.attention import check_backend
from t2v.plan.shapes import Target
from t2v.plan.trace import Rates, traced
from t2v.plan.workload import ENCODE, UPDATE, Work, build
from t2v.training.engine.example import Size

MIB, GIB = 2**20, 2**30
MANY_LAYERS = 8


@dataclass(frozen=True)
class Figure:
    """A value and how far the truth may lie from it, both ways."""

    value: float
    error: float

    @property
    def most(self) -> float:
        return self.value + self.error


@dataclass(frozen=True)
class Correction:
    """What a trace does not see, and how sure that is.

    `scratch` bytes of kernels' code and scratch, `heap` resident bytes for each that rises and
    falls, `time` seconds for each of the roofline.
    """

    scratch: int
    heap: Figure
    time: dict[str, Figure]  # by stage; any other stage takes `otherwise`
    otherwise: Figure


# glibc keeps holes: 1.3 to 1.8 of the traced rise in training, 2.3 with checkpointing, whose blocks
# come and go; with every block mapped alone, trace and scratch were right to 2 %. Small products do
# not reach the rates of large ones: 1.1 to 2.8 times the roofline. No GPU was
# measured: whole steps are published at some 0.7 of the rate that products reach.
DEFAULTS = {
    "cpu": Correction(50 * MIB, Figure(1.7, 0.6), {}, Figure(1.6, 0.8)),
    "cuda": Correction(GIB // 2, Figure(1.05, 0.1), {}, Figure(1.4, 0.4)),
}


@dataclass(frozen=True)
class StageTrace:
    """A stage as traced: bytes held before it and at its peak, FLOP and seconds of one run."""

    name: str
    times: int
    held: int
    peak: int
    flop: int
    seconds: float

    @property
    def rise(self) -> int:
        return self.peak - self.held

    def resident(self, correction: Correction) -> Figure:
        """Bytes of the process at the stage's peak, above those of the bare one."""
        return Figure(
            correction.scratch + self.held + self.rise * correction.heap.value,
            self.rise * correction.heap.error + correction.scratch / 2,
        )


@dataclass(frozen=True)
class Estimate:
    """The bytes and stages of a work."""

    size: Size
    stages: tuple[StageTrace, ...]
    parameters: dict[str, int]  # by part
    weights: int
    gradients: int
    optimizer: int
    average: int
    latents: int  # of one clip, as a cache keeps them
    absent: tuple[str, ...]

    def highest(self, correction: Correction) -> StageTrace:
        """The stage with the worst moment."""
        return max(self.stages, key=lambda stage: stage.resident(correction).value)

    def peak(self, correction: Correction) -> Figure:
        """Resident bytes at the worst moment, above those of the bare process."""
        return self.highest(correction).resident(correction)

    def seconds(self, stage: StageTrace, correction: Correction) -> Figure:
        """Of one run of a stage."""
        factor = correction.time.get(stage.name, correction.otherwise)
        return Figure(stage.seconds * factor.value, stage.seconds * factor.error)


def estimate(target: Target, size: Size, rates: Rates) -> Estimate:
    """Trace one step of the work; nothing of its size is allocated.

    Of many equal layers a few are traced: every figure is a line over their number.

    Raises:
        UserError: see `build`.
    """
    if not isinstance(target, TrainDiTConfig) or target.model.num_layers <= MANY_LAYERS:
        return traced_whole(target, size, rates)
    layers = target.model.num_layers
    few = 2 + layers % 2  # kinds of layers may take turns
    fewer, more = (
        traced_whole(replace(target, model=replace(target.model, num_layers=count)), size, rates)
        for count in (few, few + 2)
    )
    return _onward(fewer, more, (layers - few - 2) // 2)


def _onward(fewer: Any, more: Any, steps: int) -> Any:
    """Every number in two alike things, as many steps further on the line through both."""
    if isinstance(more, (int, float)):
        return more + steps * (more - fewer)
    if isinstance(more, tuple):
        return tuple(_onward(*pair, steps) for pair in zip(fewer, more, strict=True))
    if isinstance(more, dict):
        return {key: _onward(fewer[key], value, steps) for key, value in more.items()}
    if is_dataclass(more) and not isinstance(more, type):
        names = [each.name for each in fields(more)]
        further = {
            name: _onward(getattr(fewer, name), getattr(more, name), steps) for name in names
        }
        return replace(more, **further)
    return more


def traced_whole(target: Target, size: Size, rates: Rates) -> Estimate:
    """`estimate` with every layer traced."""
    target = _traceable(target)
    with traced(rates) as trace:
        work = build(target, size)
        stages = []
        for stage in work.stages:
            held = trace.live
            with trace.stage() as usage:
                stage.run()
            stages.append(
                StageTrace(stage.name, stage.times, held, usage.peak, usage.flop, usage.seconds)
            )
        return Estimate(
            size=size,
            stages=tuple(_later(each, work) for each in stages),
            parameters=_counts(work),
            weights=work.weights(),
            gradients=work.trained(),
            optimizer=work.optimizer(),
            average=work.average(),
            latents=work.latents,
            absent=tuple(work.absent),
        )


def _traceable(target: Target) -> Target:
    """The same work where it can be traced, which is on a CPU."""
    if isinstance(target, TrainDiTConfig | FinetuneConfig):
        known = {each.value for each in AttentionBackendName} - {"native", "_native_math"}
        if target.device != "cpu" and target.attention in known:
            # a GPU's fused kernels take what torch's own takes
            target = replace(target, attention="native")
        check_backend(target.attention, 16, torch.device("cpu"), torch.float32)
    return replace(target, device="cpu")


def _later(stage: StageTrace, work: Work) -> StageTrace:
    """As the stage is from the second step on, when the optimizer's state is there before it."""
    if stage.name == UPDATE:
        return stage
    # clips are encoded before there is anything to train with
    more = -work.average() if stage.name == ENCODE else work.optimizer()
    return replace(stage, held=stage.held + more, peak=stage.peak + more)


def _counts(work: Work) -> dict[str, int]:
    return {
        name: sum(p.numel() for p in part.parameters())
        for name, part in work.parts.items()
        if any(True for _ in part.parameters())
    }
