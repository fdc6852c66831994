"""A plan in words: what it takes, whether it fits, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator

from t2v.plan.figures import GIB, MIB, PhaseTrace, Uncertain
from t2v.plan.ladder import Rung
from t2v.plan.plan import Plan

RUN = "the whole run"


def report(plan: Plan) -> str:
    """The plan as text, one thing a line."""
    parts = _sizes, _memory, _time, _disk, _ladder, _conclusion
    return "\n".join(line for part in parts for line in part(plan))


def comparison(plan: Plan) -> list[tuple[str, Uncertain, float]]:
    """Return planned beside measured figures: peak bytes, seconds by phase and in all."""
    assert plan.measured is not None
    whole = plan.estimate
    rows = [("peak memory", plan.peak, float(plan.measured.peak))]
    seconds = plan.measured.seconds
    for phase in whole.phases:
        rows.append((phase.name, whole.seconds(phase, plan.correction), seconds[phase.name]))
    times = [(whole.seconds(phase, plan.correction), phase.times) for phase in whole.phases]
    planned = _sum([Uncertain(each.value * n, each.error * n) for each, n in times])
    rows.append((RUN, planned, sum(seconds[phase.name] * phase.times for phase in whole.phases)))
    return rows


def _sizes(plan: Plan) -> Iterator[str]:
    whole, size = plan.estimate, plan.estimate.size
    yield f"t2v {plan.config.command} on {plan.device}"
    tokens = f", {size.tokens} text tokens" if size.tokens else ""
    upscale = getattr(plan.target, "upscale", 1)
    larger = f", enlarged to {size.width * upscale} x {size.height * upscale}"
    yield f"size         {size}{tokens}" + (larger if upscale != 1 else "")
    parts = ", ".join(f"{name} {_count(count)}" for name, count in whole.parameters.items())
    yield f"parameters   {_count(sum(whole.parameters.values()))}: {parts}"
    for absent in whole.absent:
        yield f"not counted  {absent}"


def _memory(plan: Plan) -> Iterator[str]:
    whole = plan.estimate
    way = f" by {plan.asked.name}" if plan.asked else ""
    yield f"\nmemory       {_bytes(plan.peak)} at the peak beside Python's own{way}" + (
        ", corrected by two micro-steps" if plan.micro else ", not calibrated"
    )
    yield f"  weights            {_mib(whole.weights)}"
    if whole.trains:
        yield f"  gradients          {_mib(whole.gradients)}"
        yield f"  optimizer          {_mib(whole.optimizer)}"
        yield f"  averaged weights   {_mib(whole.average)}"
    for phase in whole.phases:
        yield f"  {phase.name:<20} rises by {_mib(phase.peak - phase.held)} of tensors"
    if plan.data:
        yield f"  data, besides      {_mib(plan.data)} for {plan.clips} clips"
    for variant in plan.variants:
        yield f"  with {variant.words:<55} {_bytes(variant.peak)}"


def _time(plan: Plan) -> Iterator[str]:
    whole = plan.estimate
    yield "\ntime"
    for phase in whole.phases:
        took = _duration(whole.seconds(phase, plan.correction)) if plan.timed else "-"
        yield f"  {phase.name:<20} {_flop(phase.flop)}, {took}, {_times(phase, plan)}"
    if not plan.timed:
        yield "  this device is not here: name it by tflops=... bandwidth=... memory=..."
        return
    parts = [
        (whole.seconds(phase, plan.correction), phase.times or plan.clips or 0)
        for phase in whole.phases
    ]
    total = _sum([Uncertain(each.value * times, each.error * times) for each, times in parts])
    beside = "saving" if whole.trains else "loading the model"
    yield f"  the whole run        {_duration(total)}, without {beside}"
    if plan.rates.matmul > 1:
        rates = plan.rates
        yield (
            f"  by the device's rate: products {_flop(rates.matmul)}/s, convolutions "
            f"{_flop(rates.convolution)}/s, attention {_flop(rates.attention)}/s, memory "
            f"{rates.memory / 1e9:.3g} GB/s"
        )


def _times(phase: PhaseTrace, plan: Plan) -> str:
    times = phase.times or plan.clips
    if times == 1:
        return "once"
    return f"{times:,} times" if times else "once a clip; add clips=NUMBER for the whole"


def _disk(plan: Plan) -> Iterator[str]:
    yield "\ndisk"
    for name, size in plan.disk.items():
        yield f"  {name:<40} {_mib(size)}"


def _ladder(plan: Plan) -> Iterator[str]:
    if not plan.rungs:
        return
    what, one = ("run it", "a step") if plan.estimate.trains else ("hold the weights", "in all")
    yield f"\nways to {what}, the fastest first: memory at most, main memory, time {one}"
    for rung in plan.rungs:
        yield "  " + rung_words(rung)
    if plan.apart:
        yield "without weights in main memory"
        for rung in plan.apart:
            yield "  " + rung_words(rung)


def rung_words(rung: Rung) -> str:
    """A rung in one line."""
    host = f"{_mib(rung.host)} main" if rung.host else ""
    exact = "" if rung.exact else ", weights rounded"
    return (
        f"{rung.name:<44} {_mib(rung.needs.most):>11} {host:>15}   x {rung.factor:.2f}, "
        f"{_seconds(rung.seconds)}{exact}"
    )


def _conclusion(plan: Plan) -> Iterator[str]:
    yield ""
    if plan.measured:
        yield "measured in a process of its own (planned, measured, planned too high by)"
        for name, planned, measured in comparison(plan):
            both = (
                (_bytes(planned), _mib(measured))
                if name == "peak memory"
                else (_duration(planned), _seconds(measured))
            )
            off = planned.value / measured - 1 if measured else 0.0
            yield f"  {name:<20} {both[0]}   {both[1]}   {off:+.0%}"
        yield ""
    need = plan.peak.most + plan.data
    if plan.allowed is None:
        yield f"It needs up to {_mib(need)}. How much there is is not known: add memory=GIB."
    elif plan.holds(plan.peak):
        yield f"It fits: up to {_mib(need)} of {_mib(plan.allowed)}."
    else:
        yield f"It does NOT fit: up to {_mib(need)} of {_mib(plan.allowed)}."
        if plan.rung is not None:
            yield f"It fits by {plan.rung.name}: up to {_mib(plan.rung.needs.most)}, the fastest of"
            yield f"  these ways: {_how(plan)}"
            return
        if plan.config.verify:
            yield "  It was therefore not run to be measured."
        for remedy in plan.remedies:
            fits = "fits" if plan.holds(remedy.peak) else "does not fit yet"
            yield f"  {remedy.words}: {_bytes(remedy.peak)}, {fits}"
        if not any(plan.holds(remedy.peak) for remedy in plan.remedies):
            yield "  None of these is enough: take a larger device or a smaller model."


def _how(plan: Plan) -> str:
    """The settings of the command that get the chosen rung."""
    assert plan.rung is not None
    return " ".join(f"{name}={value}" for name, value in plan.rung.settings.items())


def _sum(figures: list[Uncertain]) -> Uncertain:
    """Errors of one correction go the same way, so they add up."""
    return Uncertain(sum(each.value for each in figures), sum(each.error for each in figures))


def _count(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def _mib(size: float, like: float | None = None) -> str:
    """In the unit that suits `size`, or another one like it."""
    like = size if like is None else like
    for limit, unit, name in ((2**17, 2**10, "KiB"), (2**33, MIB, "MiB")):
        if like < limit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / GIB:,.1f} GiB"


def _bytes(figure: Uncertain) -> str:
    return f"{_mib(figure.value)} +- {_mib(figure.error, figure.value)}"


def _flop(flop: float) -> str:
    return f"{flop / 1e12:,.3g} TFLOP" if flop >= 1e12 else f"{flop / 1e9:,.3g} GFLOP"


def _duration(figure: Uncertain) -> str:
    return f"{_seconds(figure.value)} +- {_seconds(figure.error)}"


def _seconds(seconds: float) -> str:
    for limit, unit, name in ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (2e5, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86400:.3g} days"
