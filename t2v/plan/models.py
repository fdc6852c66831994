"""`t2v plan models`: which public models a card holds, how, and in what time, before a download.

Each card of `cards/` is a model's own config files, and what a trace of them at the model's usual
size gave; `tests/unit/plan_cards/make.py` makes that part anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2v.config.plan import PlanConfig
from t2v.errors import UserError
from t2v.io.text_files import read_json
from t2v.plan.devices import REACHED, card_of, rates_of
from t2v.plan.figures import DEFAULTS, GIB, SPARE, Estimate, PhaseTrace, Tiled
from t2v.plan.ladder import Link, Rung, choose, ladder_of
from t2v.plan.parts import Part
from t2v.plan.trace import Rates, Roofline, seconds_on
from t2v.training.engine.example import Size

CARDS = Path(__file__).parent / "cards"
CORRECTION = DEFAULTS["cuda"]
TAKES = ("command", "memory", "tflops", "bandwidth", "host_bandwidth")


@dataclass(frozen=True)
class Model:
    """A public model: its name, its id on the Hub, where its sizes are from, and what it takes."""

    title: str
    hub: str
    source: str
    steps: int
    estimate: Estimate


def models() -> list[Model]:
    """The models of all cards, by the number of their parameters."""
    found = []
    for path in sorted(CARDS.glob("*.json")):
        card = read_json(path)
        phases = card["traced"]["phases"]
        steps = next(each["times"] for each in phases if each["name"] == "denoise")
        estimate = estimate_from(card["traced"])
        found.append(Model(card["title"], card["hub"], card["source"], steps, estimate))
    return sorted(found, key=lambda model: sum(model.estimate.parameters.values()))


def estimate_from(saved: dict[str, Any]) -> Estimate:
    """The estimate that a card holds, as `dataclasses.asdict` wrote it."""
    phases = tuple(
        PhaseTrace(**{**each, "parts": tuple(each["parts"]), "roofline": _roofline(each)})
        for each in saved["phases"]
    )
    tiled = saved["tiled"] and Tiled(**{**saved["tiled"], "roofline": _roofline(saved["tiled"])})
    parts = tuple(Part(**each) for each in saved["parts"])
    size, absent = Size(**saved["size"]), tuple(saved["absent"])
    rest = {"size": size, "phases": phases, "tiled": tiled, "parts": parts, "absent": absent}
    return Estimate(**{**saved, **rest})


def _roofline(saved: dict[str, Any]) -> Roofline:
    return {int(each): (flop, moved) for each, (flop, moved) in saved["roofline"].items()}


def on_device(estimate: Estimate, rates: Rates) -> Estimate:
    """The estimate with the seconds of a device."""
    phases = tuple(
        replace(each, seconds=seconds_on(each.roofline, each.operations, rates))
        for each in estimate.phases
    )
    tiled = estimate.tiled
    if tiled is not None:
        tiled = replace(tiled, seconds=seconds_on(tiled.roofline, tiled.operations, rates))
    return replace(estimate, phases=phases, tiled=tiled)


def models_report(config: PlanConfig) -> str:
    """A line for each public model: whether it fits into `config.memory`, and how.

    Raises:
        UserError: no memory is given, or a setting that belongs to a single model.
    """
    if config.memory is None:
        raise UserError("memory: give the GiB of the card, such as `t2v plan models memory=24`.")
    plain = PlanConfig(command="models")
    others = [n for n in vars(plain) if n not in TAKES and getattr(config, n) != getattr(plain, n)]
    if others:
        raise UserError(
            f"{', '.join(others)}: `t2v plan models` takes every model at its usual size and has "
            f"{', '.join(TAKES[1:])} alone. For one model: t2v plan sample model=FOLDER."
        )
    return "\n".join(_lines(config, config.memory))


def _lines(config: PlanConfig, memory: float) -> Iterator[str]:
    card = card_of(memory)
    if config.tflops and config.bandwidth:
        rates = rates_of(config.tflops, config.bandwidth)
        name = f"{config.tflops:g} TFLOP/s, {config.bandwidth:g} GB/s"
    else:
        rates, name = rates_of(REACHED * card.tflops, card.bandwidth), f"an {card.name}"
    link = Link(1e9 * config.host_bandwidth, rates.memory)
    yield f"t2v sample with public models on a card of {memory:g} GiB, as fast as {name}"
    yield "(tflops=... bandwidth=... for another; each is the fastest way that fits)\n"
    yield f"{'model':<22}{'video':<19}{'steps':>5}{'memory':>10}{'main':>10}  {'time':<20}way"
    free, found = SPARE * memory * GIB, models()
    for model in found:
        there = on_device(model.estimate, rates)
        best = ladder_of(there, CORRECTION, link)
        yield _line(model, best, free)
        chosen = choose(best, free)
        apart = ladder_of(there, CORRECTION, link, offloads=False)
        if chosen is not None and chosen.host and choose(apart, free):
            yield _line(model, apart, free, again=True)
    yield ""
    error = CORRECTION.otherwise.error / CORRECTION.otherwise.value
    yield f"memory is the most that is expected, time +- {error:.0%} without loading; sizes are of:"
    for model in found:
        yield f"  {model.title:<22}{model.hub}: {model.source}"


def _line(model: Model, rungs: tuple[Rung, ...], free: float, again: bool = False) -> str:
    size = model.estimate.size
    video = f"{size.frames} x {size.width}x{size.height}"
    title = "" if again else model.title
    head = f"{title:<22}{'' if again else video:<19}{'' if again else model.steps:>5}"
    rung = choose(rungs, free)
    if rung is None:
        least = rungs[-1]
        return f"{head}{_gib(least.needs.most):>10}{'':>10}  too large by any way; make it smaller"
    error = rung.seconds * CORRECTION.otherwise.error / CORRECTION.otherwise.value
    host = _gib(rung.host) if rung.host else ""
    way = rung.name if rung.exact else f"{rung.name} (weights rounded)"
    return f"{head}{_gib(rung.needs.most):>10}{host:>10}  {_minutes(rung.seconds, error):<20}{way}"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _minutes(seconds: float, error: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} +- {error:.0f} s"
    return f"{seconds / 60:.1f} +- {error / 60:.1f} min"
