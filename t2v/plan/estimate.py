"""The bytes, FLOP and seconds of a work, from a trace of its stages, and what corrects them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from t2v.plan.trace import Rates, traced
from t2v.plan.work import UPDATE, Size, Target, Work, build

MIB, GIB = 2**20, 2**30


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


# glibc keeps holes: 1.28 to 1.41 of the traced rise over six steps, transformer and VAE, batch 4 to
# 48; with every block mapped alone the trace was right to 0.1 %. No GPU was measured: whole steps
# are published at some 0.7 of the rate that products reach.
DEFAULTS = {
    "cpu": Correction(50 * MIB, Figure(1.35, 0.15), {}, Figure(1.0, 0.5)),
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

    def peak(self, correction: Correction) -> Figure:
        """Resident bytes at the worst moment, above those of the bare process."""
        return max(
            (
                Figure(
                    correction.scratch + stage.held + rise * correction.heap.value,
                    rise * correction.heap.error + correction.scratch / 2,
                )
                for stage in self.stages
                for rise in (stage.peak - stage.held,)
            ),
            key=lambda figure: figure.value,
        )

    def seconds(self, stage: StageTrace, correction: Correction) -> Figure:
        """Of one run of a stage."""
        factor = correction.time.get(stage.name, correction.otherwise)
        return Figure(stage.seconds * factor.value, stage.seconds * factor.error)


def estimate(target: Target, size: Size, rates: Rates) -> Estimate:
    """Trace one step of the work; nothing of its size is allocated.

    Raises:
        UserError: see `build`.
    """
    with traced(rates) as trace:
        work = build(replace(target, device="cpu"), size)
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
            stages=tuple(_with_state(each, work.optimizer()) for each in stages),
            parameters=_counts(work),
            weights=work.weights(),
            gradients=work.trained(),
            optimizer=work.optimizer(),
            average=work.average(),
            latents=work.latents,
            absent=tuple(work.absent),
        )


def _with_state(stage: StageTrace, state: int) -> StageTrace:
    """From the second step on the optimizer's state is there before the first stage too."""
    if stage.name == UPDATE:
        return stage
    return replace(stage, held=stage.held + state, peak=stage.peak + state)


def _counts(work: Work) -> dict[str, int]:
    return {
        name: sum(p.numel() for p in part.parameters())
        for name, part in work.parts.items()
        if any(True for _ in part.parameters())
    }
