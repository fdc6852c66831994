"""The ladder of a training: settings that take less memory for more time, the fastest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from t2v.plan.figures import Correction, Estimate
from t2v.plan.ladder import Link, Rung, fastest_first
from t2v.plan.shapes import Target
from t2v.plan.work import EMBED
from t2v.plan.workload import ENCODE, STEPS, UPDATE
from t2v.training.engine.example import Size

AT_ONCE = 2  # blocks whose weights are on the device while others wait, of `swap_blocks`
FETCHES = 2  # how often a step brings a block's weights: forward, and backward
BEFORE = (ENCODE, EMBED)  # phases in which the transformer is in main memory anyway
Estimator = Callable[[Target, Size], Estimate]


def training_ladder(
    target: Any,
    whole: Estimate,
    estimate_of: Estimator,
    correction: Correction,
    link: Link,
) -> tuple[Rung, ...]:
    """The rungs of a training on a card; each needs less memory than every faster one.

    Args:
        whole: the estimate of `target` as it is.
        estimate_of: that of another one.
    """
    rungs = []
    for changes in _changes(target):
        size = replace(whole.size, batch=changes.get("batch_size", whole.size.batch))
        other = estimate_of(replace(target, **changes), size) if changes else whole
        rungs.append(_rung(changes, other, correction))
        rungs += _swapped(target, changes, other, correction, link)
    return fastest_first(rungs)


def _changes(target: Any) -> Iterator[dict[str, Any]]:
    """Settings that differ: nothing, then checkpointing, then also single clips."""
    yield {}
    changes: dict[str, Any] = {}
    if not target.gradient_checkpointing:
        changes["gradient_checkpointing"] = True
        yield dict(changes)
    if target.batch_size > 1:
        times = target.batch_size * target.accumulate
        yield changes | {"batch_size": 1, "accumulate": times}


def _rung(changes: Mapping[str, Any], estimate: Estimate, correction: Correction) -> Rung:
    settings = {name: str(value).lower() for name, value in changes.items()}
    return Rung(
        name=" ".join(f"{name}={value}" for name, value in settings.items()) or "as it is",
        needs=estimate.peak(correction),
        host=0.0,
        seconds=_step(estimate, correction),
        factor=1.0,
        settings=settings,
        exact=True,
        source="traced",
    )


def _step(estimate: Estimate, correction: Correction) -> float:
    """Seconds of one step: all of its batches, and the update."""
    phases = [each for each in estimate.phases if each.name in STEPS]
    steps = next(each.times for each in phases if each.name == UPDATE)
    return sum(estimate.seconds(each, correction).value * each.times / steps for each in phases)


def _swapped(
    target: Any, changes: Mapping[str, Any], estimate: Estimate, correction: Correction, link: Link
) -> list[Rung]:
    """The same with all blocks waiting in main memory, where the base model is frozen."""
    if getattr(target, "swap_blocks", None) != 0 or target.learns_whole():
        return []
    part = next(each for each in estimate.parts if each.name == "transformer")
    count = round((part.weights - part.rest) / part.block)
    waiting = (part.weights - part.rest - estimate.gradients) * (count - AT_ONCE) / count
    plain = _rung({**changes, "swap_blocks": count}, estimate, correction)
    phases = [
        replace(each, held=each.held - int(waiting), peak=each.peak - int(waiting))
        if each.name not in BEFORE
        else each
        for each in estimate.phases
    ]
    needs = max((each.resident(correction) for each in phases), key=lambda each: each.value)
    moved = FETCHES * (part.weights - part.rest) / link.host
    return [replace(plain, needs=needs, host=waiting, seconds=plain.seconds + moved)]
