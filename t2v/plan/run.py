"""`t2v plan`: traces the work, corrects it by measurement, and finds what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from t2v.config import PlanConfig, SampleConfig, TrainDiTConfig, TrainVAEConfig
from t2v.data.clips import read_rows
from t2v.data.dataset import is_world
from t2v.errors import UserError
from t2v.models.placement import pick_device
from t2v.plan.measure import Measured, free_memory, measure, measured_rates
from t2v.plan.trace import Rates, traced
from t2v.plan.work import UPDATE, Size, Target, Work, build, planned_size
from t2v.sampling.load import pick_dtype

MIB, GIB = 2**20, 2**30
UNKNOWN = Rates(1, 1, 1, 1)
SPARE = 0.9  # of the free memory that a plan may fill


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

    `library` bytes of kernels' code and scratch, `heap` resident bytes for each that rises and
    falls, `time` seconds for each of the roofline.
    """

    library: int
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
                    correction.library + stage.held + rise * correction.heap.value,
                    rise * correction.heap.error + correction.library / 2,
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


def plan(config: PlanConfig, target: Target) -> Plan:
    """What `target` will take: see `PlanConfig`.

    Raises:
        UserError: a size or folder does not fit, or the device at hand is not the one planned.
    """
    asked = {name: getattr(config, name) for name in ("num_frames", "height", "width")}
    size = planned_size(target, asked, config.text_tokens)
    device, rates, name = _device(config, target)
    correction = DEFAULTS[device.type]
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
    clips = config.clips or _clips(target)
    done = Plan(
        config=config,
        target=target,
        estimate=whole,
        correction=correction,
        timed=rates is not None,
        device=name,
        rates=rates or UNKNOWN,
        data=_data(target, whole, clips or 0),
        clips=clips,
        disk=_disk(target, whole, clips),
        allowed=allowed,
        variants=tuple(_remedies(_variants(target, size), correction)),
        remedies=(),
        micro=micro,
        measured=measure(target, size) if config.verify else None,
    )
    if done.holds(done.peak):
        return done
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
    return max(1.0, (measured.peak - default.library - stage.held) / (stage.peak - stage.held))


def _time_factor(whole: float, traced_: Sequence[float], took: Sequence[float]) -> Figure:
    """From two measurements one may go on in proportion or in a line; the truth lies between."""
    factor = took[1] / traced_[1]
    if traced_[1] < 1.2 * traced_[0]:  # both had the same size: a line has no slope
        return Figure(factor, max(0.15 * factor, abs(factor - took[0] / traced_[0])))
    slope = (took[1] - took[0]) / (traced_[1] - traced_[0])
    line = max(factor / 2, (took[1] + slope * (whole - traced_[1])) / whole)
    middle = (factor + line) / 2
    return Figure(middle, max(0.15 * middle, abs(factor - line) / 2))


def _clips(target: Target) -> int | None:
    if isinstance(target, SampleConfig) or not is_world(target.data):
        return None
    return len(read_rows(target.data))


def _data(target: Target, whole: Estimate, clips: int) -> int:
    """Bytes of a world that training keeps in the host's memory: latents, or pixels and masks."""
    size = whole.size
    if isinstance(target, SampleConfig) or not is_world(target.data):
        return 0  # clips of a manifest stay on the disk
    if isinstance(target, TrainDiTConfig):
        return clips * whole.latents
    if isinstance(target, TrainVAEConfig):
        return clips * size.frames * size.height * size.width * 4
    return 0


def _disk(target: Target, whole: Estimate, clips: int | None) -> dict[str, int]:
    if isinstance(target, SampleConfig):
        return {"latents kept until they are decoded": 2 * whole.latents}
    # the pipeline, and what training goes on from: weights, average, optimizer
    one = 2 * whole.weights + whole.average + whole.optimizer
    disk = {"a checkpoint": one}
    disk[f"{target.keep_checkpoints} kept, one being written"] = (1 + target.keep_checkpoints) * one
    if isinstance(target, TrainDiTConfig):
        disk["latents of a clip"] = whole.latents
        if clips:
            disk[f"latents of {clips} clips"] = clips * whole.latents
    return disk


def _remedies(
    ways: Iterator[tuple[str, Target, Size]], correction: Correction
) -> Iterator[Remedy]:
    for words, target, size in ways:
        yield Remedy(words, estimate(target, size, UNKNOWN).peak(correction))


def _variants(target: Target, size: Size) -> Iterator[tuple[str, Target, Size]]:
    """The same training with and without what trades memory for time."""
    if isinstance(target, SampleConfig):
        return
    kernels = ("native", "_native_math") if isinstance(target, TrainDiTConfig) else (None,)
    for kernel in kernels:
        for checkpointing in (False, True):
            other: Target = replace(target, gradient_checkpointing=checkpointing)
            words = f"gradient_checkpointing={str(checkpointing).lower()}"
            if kernel:
                other = replace(other, attention=kernel)
                words += f" attention={kernel}"
            yield words, other, size


def _fitting_batch(over: Plan, target: Target) -> int:
    """The largest batch that fits, or 1: memory is a line over the batch, drawn through 1 and 2."""
    one, two = (
        estimate(target, replace(over.estimate.size, batch=batch), UNKNOWN).peak(over.correction)
        for batch in (1, 2)
    )
    each = two.most - one.most
    room = SPARE * (over.allowed or 0) - over.data - one.most
    return max(1, min(over.estimate.size.batch // 2, int(1 + 0.99 * room / each)))


def _smaller_ways(over: Plan) -> Iterator[tuple[str, Target, Size]]:
    """What to change, one thing after the other, until it fits."""
    target, size = over.target, over.estimate.size
    words: list[str] = []
    if isinstance(target, SampleConfig):
        if target.dtype != "bf16":
            words, target = ["dtype=bf16"], replace(target, dtype="bf16")
            yield " ".join(words), target, size
    else:
        if isinstance(target, TrainDiTConfig) and target.attention == "_native_math":
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


