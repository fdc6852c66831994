"""The correction that two measured micro-steps call for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from t2v.plan.figures import Correction, Estimate, Measured, Uncertain


def calibrated(
    whole: Estimate, micro: Sequence[tuple[Estimate, Measured]], default: Correction
) -> Correction:
    """The correction that two measured micro-steps call for, the larger of them last."""
    factors = {}
    for index, phase in enumerate(whole.phases):
        traced_ = [small.phases[index].seconds for small, _ in micro]
        took = [measured.seconds[phase.name] for _, measured in micro]
        factors[phase.name] = _onward(phase.seconds, traced_, took, 0.15)
    tops = [small.highest(default) for small, _ in micro]
    rises = [
        max(1.0, measured.peak - default.scratch - top.held)
        for (_, measured), top in zip(micro, tops, strict=True)
    ]
    heap = _onward(whole.highest(default).rise, [top.rise for top in tops], rises, 0.08)
    return replace(default, heap=heap, time=factors)


def _onward(
    whole: float, traced_: Sequence[float], measured: Sequence[float], error: float
) -> Uncertain:
    """Return the factor for `whole`, with at least `error` of it to both sides.

    From two measurements one may go on in proportion or in a line; the truth lies between.
    """
    factor = measured[1] / traced_[1]
    if traced_[1] < 1.1 * traced_[0]:  # of about one size: a line has no slope
        other = measured[0] / traced_[0]
        return Uncertain(factor, max(error * factor, abs(factor - other)))
    slope = (measured[1] - measured[0]) / (traced_[1] - traced_[0])
    line = (measured[1] + slope * (whole - traced_[1])) / whole
    line = min(2 * factor, max(factor / 2, line))
    middle = (factor + line) / 2
    return Uncertain(middle, max(error * middle, abs(factor - line) / 2))
