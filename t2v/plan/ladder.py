"""The ladder: ways of holding a pipeline's weights, from the fastest to the one that needs least.

It knows sizes and rates alone: what a device has free is a parameter, of `choose`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from t2v.config.checks import kind_of
from t2v.plan.figures import Correction, Estimate, Tiled, Uncertain
from t2v.plan.parts import Part

FP8 = "each matrix is cast to the number format of the activations before it is used"
QUARTER = "each matrix is made of its 4 bits before it is used"
PINNED = "PCIe copies the next weights while these are used"
EMBEDS = ("text", "pictures")  # the stages in which encoders are at work
WIDE = 2  # bytes of a number of the activations, when weights are quantized
PAGEABLE = "PCIe copies from memory that is not pinned, at half the rate"


@dataclass(frozen=True)
class Stage:
    """A part of the work: the networks at work in it, and what one run of it takes.

    Args:
        parts: by name; of several, one is at work at a time.
        beside: bytes of what is held beside the weights before it.
        rise: bytes of its own tensors at their most.
        seconds: of one run with all weights at hand.
        runs: how often it runs, and so how often all weights are read.
    """

    name: str
    parts: tuple[str, ...]
    beside: float
    rise: float
    seconds: float
    runs: int


@dataclass(frozen=True)
class Holding:
    """A way of keeping weights near the device.

    Args:
        resident: bytes of a part at work that are on the device.
        waits: parts that are on the device beside those at work: all; encoders before all that
            denoises, and it when they are gone (later); none.
        moves: 0: nothing is moved; 1: each part once a video; 2: at every run.
        overlaps: whether weights are moved while others are used.
        kinds: of quantization that it goes with.
    """

    name: str
    settings: Mapping[str, str]
    resident: Callable[[Part], float]
    waits: Literal["all", "later", "none"]
    moves: int
    overlaps: bool
    source: str
    kinds: tuple[str, ...] = ("none", "fp8", "int8", "nf4")


@dataclass(frozen=True)
class Quantization:
    """Bytes of a weight of linear layers, for those that are quantized; 0: as it was loaded.

    Args:
        slower: time beside that of the memory traffic, as a factor.
    """

    name: str
    bytes: float
    slower: float
    source: str


@dataclass(frozen=True)
class Rung:
    """One way of running a pipeline.

    Args:
        needs: bytes of the device's memory.
        host: bytes of main memory for the weights that wait there.
        seconds: of a whole video.
        factor: time, as a multiple of the fastest rung's.
        settings: of `t2v sample`, or of the training, that get it, by name.
        exact: False where weights are rounded, which changes the video.
        source: of its time.
    """

    name: str
    needs: Uncertain
    host: float
    seconds: float
    factor: float
    settings: Mapping[str, str]
    exact: bool
    source: str


def _by_block(part: Part) -> float:
    """A block at work, and the next one behind it; of networks but transformers, layers."""
    if part.name.startswith("transformer"):
        return part.rest + 2 * part.block
    return part.leaf + part.linear


HOLDINGS = (
    Holding("all weights on the device", {}, lambda part: part.weights, "all", 0, False, ""),
    Holding(
        "text encoder released",
        {"offload": "text"},
        lambda part: part.weights,
        "later",
        0,
        False,
        "the text is embedded once",
    ),
    Holding(
        "model offload",
        {"offload": "model"},
        lambda part: part.weights,
        "none",
        1,
        False,
        PAGEABLE,
    ),
    Holding(
        "group offload",
        {"offload": "group"},
        _by_block,
        "none",
        2,
        True,
        PINNED,
        ("none", "fp8"),
    ),
    Holding(
        "group offload by layer",
        {"offload": "leaf"},
        lambda part: part.leaf + part.linear,  # one at work, and the next one behind it
        "none",
        2,
        True,
        PINNED,
        ("none", "fp8"),
    ),
    Holding(
        "sequential offload",
        {"offload": "sequential"},
        lambda part: part.leaf,
        "none",
        2,
        False,
        PAGEABLE,
        ("none",),
    ),
)
# HunyuanVideo on an H100 took 81 s in bf16, 88 s in int8 and 78 s in nf4 (FastVideo's table). For
# fp8 and nf4 2 and 5 % are assumed, so that what rounds less comes first where times are alike
QUANTIZATIONS = (
    Quantization("none", 0.0, 1.0, ""),
    Quantization("fp8", 1.0, 1.02, FP8),
    # a scale of 4 bytes for each row
    Quantization("int8", 1.004, 1.09, FP8),
    # a scale of 4 bytes for every 64 weights
    Quantization("nf4", 0.5625, 1.05, QUARTER),
)
PLAIN = QUANTIZATIONS[0]


@dataclass(frozen=True)
class Link:
    """Rates in bytes/s: of main memory to the device, and of the device's own memory."""

    host: float
    memory: float


def ladder(
    parts: Sequence[Part],
    stages: Sequence[Stage],
    tiled: Tiled | None,
    correction: Correction,
    link: Link,
    offloads: bool = True,
) -> tuple[Rung, ...]:
    """The rungs from the fastest down; each needs less memory than every faster one.

    Args:
        stages: in their order, of which the last decodes and one named `text` embeds the prompts.
        tiled: the last stage by tiles; None: its VAE has none.
        offloads: False: without ways that keep weights in main memory.
    """
    names = [part.name for part in parts]
    rungs = [
        _rung(
            parts, stages, tiles, holding, dict.fromkeys(names, kind), correction, link, kind.name
        )
        for kind in QUANTIZATIONS
        for holding in HOLDINGS
        if kind.name in holding.kinds and (offloads or not holding.moves)
        for tiles in (None, *([tiled] if tiled else []))
    ]
    return fastest_first(rungs)


def fastest_first(rungs: Sequence[Rung]) -> tuple[Rung, ...]:
    """The rungs by their time, without those that need no less memory than a faster one."""
    kept: list[Rung] = []
    for rung in sorted(rungs, key=lambda rung: (rung.seconds, -rung.needs.most)):
        if not kept or rung.needs.most < kept[-1].needs.most:
            kept.append(rung)
    return tuple(replace(rung, factor=rung.seconds / kept[0].seconds) for rung in kept)


def choose(rungs: Sequence[Rung], free: float, host: float | None = None) -> Rung | None:
    """The fastest rung that fits into `free` bytes of the device, and `host` of main memory."""
    return next(
        (rung for rung in rungs if rung.needs.most <= free and (host is None or rung.host <= host)),
        None,
    )


def ladder_of(
    whole: Estimate, correction: Correction, link: Link, offloads: bool = True
) -> tuple[Rung, ...]:
    """The rungs for an estimate of sampling; see `ladder`."""
    stages, tiled = _stages(whole, correction)
    return ladder(whole.parts, stages, tiled, correction, link, offloads)


def rung_of(
    whole: Estimate, correction: Correction, link: Link, offload: str, quantize: str, tiles: bool
) -> Rung:
    """One way of sampling, by the settings of `t2v sample`."""
    stages, tiled = _stages(whole, correction)
    wanted = {} if offload == "none" else {"offload": offload}
    holding = next(each for each in HOLDINGS if dict(each.settings) == wanted)
    kinds = {part.name: kind_of(quantize, part.name) for part in whole.parts}
    by_name = {each.name: each for each in QUANTIZATIONS}
    by_part = {name: by_name[kind] for name, kind in kinds.items()}
    by_tiles = tiled if tiles else None
    return _rung(whole.parts, stages, by_tiles, holding, by_part, correction, link, quantize)


def _stages(whole: Estimate, correction: Correction) -> tuple[list[Stage], Tiled | None]:
    stages = [
        Stage(
            phase.name,
            phase.parts,
            max(0, phase.held - whole.weights),
            phase.rise,
            whole.seconds(phase, correction).value / phase.passes,
            phase.times * phase.passes,
        )
        for phase in whole.phases
    ]
    tiled = whole.tiled
    if tiled is not None:
        factor = correction.time.get(stages[-1].name, correction.otherwise)
        tiled = replace(tiled, seconds=tiled.seconds * factor.value)
    return stages, tiled


def _rung(
    parts: Sequence[Part],
    stages: Sequence[Stage],
    tiled: Tiled | None,
    holding: Holding,
    kinds: Mapping[str, Quantization],
    correction: Correction,
    link: Link,
    quantize: str,
) -> Rung:
    """A rung.

    Args:
        kinds: of each part's weights; `quantize` is the setting that says so.
    """
    if tiled is not None:
        stages = (*stages[:-1], replace(stages[-1], rise=tiled.rise, seconds=tiled.seconds))
    sizes = {part.name: _shrunk(part, kinds[part.name]) for part in parts}
    # those at work in one stage are held alike
    alike = {stage.name: kinds[stage.parts[0]] if stage.parts else PLAIN for stage in stages}
    needs = [_needs(stage, sizes, holding, alike[stage.name], correction) for stage in stages]
    seconds = sum(_seconds(stage, sizes, holding, alike[stage.name], link) for stage in stages)
    tiles = {"vae_tiling": "true"} if tiled else {}
    sources = [each.source for each in alike.values()]
    quantized = {} if quantize == "none" else {"quantize": quantize}
    names = [holding.name, *(["VAE by tiles"] if tiled else []), *quantized.values()]
    return Rung(
        name=", ".join(names),
        needs=max(needs, key=lambda need: need.most),
        host=0.0 if holding.moves == 0 else sum(part.weights for part in sizes.values()),
        seconds=seconds,
        factor=1.0,
        settings={**holding.settings, **tiles, **quantized},
        exact=not quantized,
        source="; ".join(filter(None, dict.fromkeys((holding.source, *sources)))),
    )


def _shrunk(part: Part, kind: Quantization) -> Part:
    """The sizes of a part whose linear layers are quantized; a VAE's are not."""
    share = kind.bytes / part.wide
    if not 0 < share < 1 or part.name.startswith(("vae", "upscaler")):
        return part
    gone = round(part.matrices * (1 - share))
    return replace(
        part,
        weights=part.weights - gone,
        matrices=part.matrices - gone,
        block=part.block - round(part.in_block * (1 - share)),
        linear=round(part.linear * share),
        wide=kind.bytes,
    )


def _needs(
    stage: Stage,
    sizes: Mapping[str, Part],
    holding: Holding,
    kind: Quantization,
    correction: Correction,
) -> Uncertain:
    """Bytes of the device in one stage."""
    at_work = [sizes[name] for name in stage.parts]
    if holding.waits == "all":
        weights: float = sum(part.weights for part in sizes.values())
    elif holding.waits == "later":
        absent = "transformer" if stage.name in EMBEDS else ("text_encoder", "image_encoder")
        weights = sum(part.weights for part in sizes.values() if not part.name.startswith(absent))
    else:
        weights = max((holding.resident(part) for part in at_work), default=0)
    if kind.bytes:  # one layer at a time is as wide as it was
        weights += max((part.linear * WIDE / part.wide for part in at_work), default=0)
    heap = correction.heap
    return Uncertain(
        correction.scratch + weights + stage.beside + stage.rise * heap.value,
        correction.scratch / 2 + stage.rise * heap.error,
    )


def _seconds(
    stage: Stage, sizes: Mapping[str, Part], holding: Holding, kind: Quantization, link: Link
) -> float:
    """Seconds of all runs of one stage."""
    at_work = [sizes[name] for name in stage.parts]
    weights = max((part.weights for part in at_work), default=0)
    seconds = stage.seconds * kind.slower
    if kind.bytes:  # the small weights are read, and wide ones written and read
        matrices = max((part.matrices for part in at_work), default=0)
        seconds += matrices * (1 + 2 * WIDE / kind.bytes) / link.memory
    if holding.moves == 1:
        return seconds * stage.runs + 2 * sum(part.weights for part in at_work) / link.host
    if holding.moves == 2:
        if holding.overlaps:
            seconds = max(seconds, weights / link.host)
        else:
            seconds += 2 * weights / link.host
    return seconds * stage.runs
