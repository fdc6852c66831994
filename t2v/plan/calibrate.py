"""Two measured micro-steps, and the correction they call for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from t2v.models.placement import pick_device
from t2v.plan.estimate import DEFAULTS, Correction, Estimate, Figure, estimate
from t2v.plan.measure import Measured, measure
from t2v.plan.trace import Rates
from t2v.plan.work import Size, Target

SPARE = 0.9  # of the free memory that a plan may fill


def micro_steps(
    target: Target, size: Size, rates: Rates, allowed: int | None
) -> tuple[tuple[Estimate, Measured], ...]:
    """Steps of a quarter and of half the size, or less where that would not fit the memory."""
    sizes = [smaller(size)]
    sizes.append(smaller(sizes[0]))
    while True:
        estimates = [estimate(target, each, rates) for each in sizes]
        peak = estimates[0].peak(DEFAULTS[pick_device(target.device).type]).most
        if allowed is None or peak <= SPARE * allowed or sizes[0] == sizes[1]:
            return tuple((each, measure(target, each.size)) for each in reversed(estimates))
        sizes = [sizes[1], smaller(sizes[1])]


def smaller(size: Size) -> Size:
    """About half the work: half the batch, else half the frames, else half the picture."""
    if size.batch > 1:
        return replace(size, batch=size.batch // 2)
    if size.frames > 5:
        return replace(size, frames=(size.frames - 1) // 8 * 4 + 1)
    height, width = (max(16, side // 32 * 16) for side in (size.height, size.width))
    return replace(size, height=height, width=width)


def calibrated(
    whole: Estimate, micro: Sequence[tuple[Estimate, Measured]], default: Correction
) -> Correction:
    """The correction that two measured micro-steps call for, the larger of them last."""
    heaps = [_heap(small, measured, default) for small, measured in micro]
    # the larger step is nearer to the whole; the allocator's holes differ from run to run
    heap = Figure(heaps[-1], max(0.08 * heaps[-1], abs(heaps[-1] - heaps[0])))
    factors = {}
    for index, stage in enumerate(whole.stages):
        traced_ = [small.stages[index].seconds for small, _ in micro]
        took = [measured.seconds[stage.name] for _, measured in micro]
        factors[stage.name] = _time_factor(stage.seconds, traced_, took)
    return replace(default, heap=heap, time=factors)


def _heap(small: Estimate, measured: Measured, default: Correction) -> float:
    stage = max(small.stages, key=lambda each: each.peak)
    return max(1.0, (measured.peak - default.scratch - stage.held) / (stage.peak - stage.held))


def _time_factor(whole: float, traced_: Sequence[float], took: Sequence[float]) -> Figure:
    """From two measurements one may go on in proportion or in a line; the truth lies between."""
    factor = took[1] / traced_[1]
    if traced_[1] < 1.2 * traced_[0]:  # both had the same size: a line has no slope
        return Figure(factor, max(0.15 * factor, abs(factor - took[0] / traced_[0])))
    slope = (took[1] - took[0]) / (traced_[1] - traced_[0])
    line = max(factor / 2, (took[1] + slope * (whole - traced_[1])) / whole)
    middle = (factor + line) / 2
    return Figure(middle, max(0.15 * middle, abs(factor - line) / 2))
