"""The settings of a queue's worker."""

from __future__ import annotations

from dataclasses import dataclass

from t2v.config.checks import at_least_one
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class QueueRunConfig:
    """`t2v queue run FOLDER`: the jobs of a queue, one after the other."""

    queue: str  # folder of the queue; its first job makes it
    device: str = "auto"  # of jobs that name none: auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    models: int = 2  # models in memory at a time; the least recently used one leaves for another
    # gigabytes of weights, beyond which models leave for another; null: they leave where that one
    # takes more than a quarter of what is free
    memory: float | None = None
    keep_seconds: float = 10.0  # between two times that the latents of a job are kept on the disk
    previews: float = 0.2  # share of the time that may go into previews; 0: none
    wait: bool = True  # wait for more jobs; false: end when none waits
    # work in this process itself; by default another one works, and is started again when it dies
    alone: bool = False

    def __post_init__(self) -> None:
        at_least_one(self, "models")
        if self.memory is not None and self.memory <= 0:
            raise UserError(f"memory={self.memory:g}: it must be more than 0.")
        if not 0 <= self.keep_seconds <= 1e6:
            raise UserError(f"keep_seconds={self.keep_seconds:g}: it must be from 0 to a million.")
        if not 0 <= self.previews <= 1:
            raise UserError(f"previews={self.previews:g}: it must be from 0 to 1.")
