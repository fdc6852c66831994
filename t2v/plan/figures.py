"""The figures of a plan: what is estimated, what was measured, and how sure either is."""

from __future__ import annotations

from dataclasses import dataclass, field

from t2v.plan.parts import Part
from t2v.plan.trace import Roofline
from t2v.training.engine.example import Size

MIB, GIB = 2**20, 2**30
SPARE = 0.9  # of the free memory that a plan may fill


@dataclass(frozen=True)
class Uncertain:
    """A value and how far the truth may lie from it, both ways."""

    value: float
    error: float

    @property
    def most(self) -> float:
        return self.value + self.error


@dataclass(frozen=True)
class Correction:
    """The part that a trace does not see, and how sure that is.

    `scratch` bytes of kernels' code and scratch, `heap` resident bytes for each that rises and
    falls, `time` seconds for each of the roofline.
    """

    scratch: int
    heap: Uncertain
    time: dict[str, Uncertain]  # by phase; any other phase takes `otherwise`
    otherwise: Uncertain


# glibc keeps holes: 1.3 to 1.8 of the traced rise in training, 2.3 with checkpointing, whose blocks
# come and go; with every block mapped alone, trace and scratch were right to 2 %. Small products do
# not reach the rates of large ones: 1.1 to 2.8 times the roofline. No GPU was
# measured: whole steps are published at some 0.7 of the rate that products reach.
DEFAULTS = {
    "cpu": Correction(50 * MIB, Uncertain(1.7, 0.6), {}, Uncertain(1.6, 0.8)),
    "cuda": Correction(GIB // 2, Uncertain(1.05, 0.1), {}, Uncertain(1.4, 0.4)),
}


@dataclass(frozen=True)
class Tiled:
    """Decoding by tiles: bytes beside the weights, and seconds of one run."""

    rise: float
    seconds: float
    operations: float = 0
    roofline: Roofline = field(default_factory=dict)


@dataclass(frozen=True)
class PhaseTrace:
    """A phase as traced: bytes held before it and at its peak, FLOP and seconds of one run.

    Args:
        parts: the networks at work in it, by name.
        passes: how often one run reads their weights.
        operations, roofline: by which its seconds on another device are found, see `seconds_on`.
    """

    name: str
    times: int
    held: int
    peak: int
    flop: int
    seconds: float
    parts: tuple[str, ...] = ()
    passes: int = 1
    operations: float = 0
    roofline: Roofline = field(default_factory=dict)

    @property
    def rise(self) -> int:
        return self.peak - self.held

    def resident(self, correction: Correction) -> Uncertain:
        """Bytes of the process at the phase's peak, above those of the bare one."""
        return Uncertain(
            correction.scratch + self.held + self.rise * correction.heap.value,
            self.rise * correction.heap.error + correction.scratch / 2,
        )


@dataclass(frozen=True)
class Estimate:
    """The bytes and phases of a workload."""

    size: Size
    phases: tuple[PhaseTrace, ...]
    parameters: dict[str, int]  # by part
    weights: int
    gradients: int
    optimizer: int
    average: int
    latents: int  # of one clip, as a cache keeps them; 0 where none are kept
    trains: bool
    absent: tuple[str, ...]
    parts: tuple[Part, ...] = ()
    tiled: Tiled | None = None  # the last phase, decoded by tiles

    def highest(self, correction: Correction) -> PhaseTrace:
        """The phase with the worst moment."""
        return max(self.phases, key=lambda phase: phase.resident(correction).value)

    def peak(self, correction: Correction) -> Uncertain:
        """Resident bytes at the worst moment, above those of the bare process."""
        return self.highest(correction).resident(correction)

    def seconds(self, phase: PhaseTrace, correction: Correction) -> Uncertain:
        """Of one run of a phase."""
        factor = correction.time.get(phase.name, correction.otherwise)
        return Uncertain(phase.seconds * factor.value, phase.seconds * factor.error)


@dataclass(frozen=True)
class Measured:
    """The measured usage of a workload."""

    peak: int  # bytes above those of the process before the model was built
    seconds: dict[str, float]  # of one run of each phase


@dataclass(frozen=True)
class Remedy:
    """A change, and the peak with it."""

    words: str
    peak: Uncertain
