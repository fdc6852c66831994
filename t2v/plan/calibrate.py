"""Two measured micro-steps, and the correction they call for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from t2v.errors import UserError
from t2v.models.device import pick_device
from t2v.plan.estimate import DEFAULTS, MIB, Correction, Estimate, Figure, estimate
from t2v.plan.measure import Measured, measure
from t2v.plan.shapes import Target
from t2v.plan.trace import Rates
from t2v.training.engine.example import Size

SPARE = 0.9  # of the free memory that a plan may fill


def micro_steps(
    target: Target, size: Size, rates: Rates, allowed: int | None
) -> tuple[tuple[Estimate, Measured], ...]:
    """Steps of a quarter and of half the size, or less where that would not fit the memory.

    Raises:
        UserError: not even the smallest fits, or see `measure`.
    """
    sizes = [smaller(size)]
    sizes.append(smaller(sizes[0]))
    while True:
        estimates = [estimate(target, each, rates) for each in sizes]
        peak = (
            estimates[0].peak(DEFAULTS.get(pick_device(target.device).type, DEFAULTS["cuda"])).most
        )
        if allowed is None or peak <= SPARE * allowed:
            return tuple((each, measure(target, each.size)) for each in reversed(estimates))
        if sizes[0] == sizes[1]:
            raise UserError(
                f"calibrate=true: even {sizes[0]} would take up to {peak / MIB:,.0f} MiB, and of "
                f"the {allowed / MIB:,.0f} MiB there are, a plan may fill {SPARE:.0%}. Plan "
                "without calibrate, or on a machine with more memory."
            )
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
    factors = {}
    for index, stage in enumerate(whole.stages):
        traced_ = [small.stages[index].seconds for small, _ in micro]
        took = [measured.seconds[stage.name] for _, measured in micro]
        factors[stage.name] = _onward(stage.seconds, traced_, took, 0.15)
    tops = [small.highest(default) for small, _ in micro]
    rises = [
        max(1.0, measured.peak - default.scratch - top.held)
        for (_, measured), top in zip(micro, tops, strict=True)
    ]
    heap = _onward(whole.highest(default).rise, [top.rise for top in tops], rises, 0.08)
    return replace(default, heap=heap, time=factors)


def _onward(
    whole: float, traced_: Sequence[float], measured: Sequence[float], error: float
) -> Figure:
    """What `whole` is to be multiplied by, with at least `error` of that to both sides.

    From two measurements one may go on in proportion or in a line; the truth lies between.
    """
    factor = measured[1] / traced_[1]
    if traced_[1] < 1.1 * traced_[0]:  # of about one size: a line has no slope
        other = measured[0] / traced_[0]
        return Figure(factor, max(error * factor, abs(factor - other)))
    slope = (measured[1] - measured[0]) / (traced_[1] - traced_[0])
    line = (measured[1] + slope * (whole - traced_[1])) / whole
    line = min(2 * factor, max(factor / 2, line))
    middle = (factor + line) / 2
    return Figure(middle, max(error * middle, abs(factor - line) / 2))
