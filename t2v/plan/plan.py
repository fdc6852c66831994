"""Everything that `t2v plan` reports of a command."""

from __future__ import annotations

from dataclasses import dataclass

from t2v.config.plan import PlanConfig
from t2v.plan.figures import SPARE, Correction, Estimate, Measured, Remedy, Uncertain
from t2v.plan.ladder import Rung, choose
from t2v.plan.shapes import Target
from t2v.plan.trace import Rates


@dataclass(frozen=True)
class Plan:
    """Everything that `t2v plan` reports."""

    config: PlanConfig
    target: Target
    estimate: Estimate
    correction: Correction
    timed: bool  # whether the device's speed is known
    device: str
    rates: Rates
    data: int  # bytes of the data that training holds in memory
    clips: int | None
    disk: dict[str, int]
    allowed: int | None  # bytes that may be used
    variants: tuple[Remedy, ...]
    remedies: tuple[Remedy, ...]
    rungs: tuple[Rung, ...]  # on a card: the ways to run it, the fastest first
    asked: Rung | None  # the way of holding the weights that the settings name
    apart: tuple[Rung, ...]  # of sampling: those that keep no weights in main memory
    micro: tuple[tuple[Estimate, Measured], ...]
    measured: Measured | None

    @property
    def peak(self) -> Uncertain:
        if self.asked is not None:
            return self.asked.needs
        return self.estimate.peak(self.correction)

    @property
    def rung(self) -> Rung | None:
        """The fastest rung that fits the memory."""
        return choose(self.rungs, SPARE * self.allowed - self.data) if self.allowed else None

    def holds(self, peak: Uncertain) -> bool:
        """Return whether it fits the memory, at its worst and beside the data."""
        return self.allowed is None or peak.most + self.data <= SPARE * self.allowed
