"""The bytes, FLOP and seconds of a work, from a trace of its phases, and what corrects them."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName

from t2v.models.attention.layer import check_backend
from t2v.models.attention.layouts import stack
from t2v.models.folder import model_folder
from t2v.plan.figures import Estimate, PhaseTrace, Tiled
from t2v.plan.parts import part_of
from t2v.plan.peer_work import peer_estimate
from t2v.plan.shapes import Target, saved
from t2v.plan.sizes import is_peer
from t2v.plan.trace import Rates, Trace, traced
from t2v.plan.work import EMBED, TiledDecode, Workload
from t2v.plan.workload import ENCODE, UPDATE, build
from t2v.training.engine.example import Size

MANY_LAYERS = 8


def estimate(target: Any, size: Size, rates: Rates) -> Estimate:
    """Trace one step of the work; nothing of its size is allocated.

    Of many equal layers a few are traced: every figure is a line over their number.

    Raises:
        UserError: see `build`.
    """
    if is_peer(target):
        return peer_estimate(target, size, rates)
    layers = _layers(target)
    if layers <= MANY_LAYERS:
        return traced_whole(target, size, rates)
    every = max(2, _period(target, layers))  # kinds of layers may take turns
    few = every + layers % every
    if few + every > layers:
        return traced_whole(target, size, rates)
    fewer, more = (_traced_with(target, size, rates, count) for count in (few, few + every))
    return _onward(fewer, more, (layers - few - every) // every)


def _period(target: Any, layers: int) -> int:
    """After so many layers their layouts of attention are the same again."""
    attention = getattr(target, "attention_layout", ())
    if not isinstance(target.model, str):
        attention = target.model.attention
    elif not attention:
        config = saved(model_folder(target.model) / "transformer", "config.json")
        attention = config.get("attention", "full")
    kinds = [(each.word, each.turn) for each in stack(attention, layers, layers)]
    return next(n for n in range(1, layers + 1) if kinds[n:] == kinds[: layers - n])


def _layers(target: Any) -> int:
    """The number of blocks of the transformers, of those of a saved model if they are alike."""
    if not isinstance(target.model, str):
        return int(getattr(target.model, "num_layers", 0))
    folder = model_folder(target.model)
    names = [each for each in ("transformer", "transformer_2") if (folder / each).is_dir()]
    counts = {saved(folder / each, "config.json").get("num_layers", 0) for each in names}
    return int(counts.pop()) if len(counts) == 1 else 0


def _traced_with(target: Any, size: Size, rates: Rates, layers: int) -> Estimate:
    if isinstance(target.model, str):
        return traced_whole(target, size, rates, layers)
    model = replace(target.model, num_layers=layers)
    return traced_whole(replace(target, model=model), size, rates)


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


def traced_whole(target: Target, size: Size, rates: Rates, layers: int | None = None) -> Estimate:
    """`estimate` with every layer traced, or with so many of a saved model."""
    on_card = target.device.startswith("cuda")
    target = _traceable(target)
    with traced(rates) as trace:
        work = build(target, size, layers)
        phases = []
        for phase in work.phases:
            held = trace.live
            with trace.phase() as usage:
                phase.run()
            away = work.bytes_of(phase.away if on_card else phase.gone)
            figures = held - away, usage.peak - away, usage.flop, usage.seconds
            phases.append(PhaseTrace(phase.name, phase.times, *figures, phase.parts, phase.passes))
        return Estimate(
            size=size,
            phases=tuple(_later(each, work) for each in phases),
            parameters=_counts(work),
            weights=work.weights(),
            gradients=work.trained(),
            optimizer=work.optimizer(),
            trains=work.state is not None,
            average=work.average(),
            latents=work.latents,
            absent=tuple(work.absent),
            parts=tuple(part_of(name, each) for name, each in work.parts.items()),
            tiled=_tiled(work.tile, trace),
        )


def _tiled(tile: TiledDecode | None, trace: Trace) -> Tiled | None:
    if tile is None:
        return None
    held = trace.live
    with trace.phase() as usage:
        tile.run()
    rise = tile.tiles.rise(usage.peak - held, tile.video)
    return Tiled(rise, usage.seconds * tile.tiles.count)


def _traceable(target: Any) -> Target:
    """The same work where it can be traced, which is on a CPU."""
    if hasattr(target, "attention"):
        known = {each.value for each in AttentionBackendName} - {"native", "_native_math"}
        if target.device != "cpu" and target.attention in known:
            # a GPU's fused kernels take what torch's own takes
            target = replace(target, attention="native")
        check_backend(target.attention, 16, torch.device("cpu"), torch.float32)
    return replace(target, device="cpu")


def _later(phase: PhaseTrace, work: Workload) -> PhaseTrace:
    """As the phase is from the second step on, when the optimizer's state is there before it."""
    if phase.name == UPDATE:
        return phase
    # clips are encoded before there is anything to train with
    more = -work.average() if phase.name in (ENCODE, EMBED) else work.optimizer()
    return replace(phase, held=phase.held + more, peak=phase.peak + more)


def _counts(work: Workload) -> dict[str, int]:
    return {
        name: sum(getattr(p, "numbers", p.numel()) for p in part.parameters())
        for name, part in work.parts.items()
        if any(True for _ in part.parameters())
    }
