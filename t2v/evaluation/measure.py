"""The metrics of `t2v eval`, and the rows of videos that each is measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from t2v.config.evaluation import EvalConfig
from t2v.errors import UserError
from t2v.evaluation.metrics import (
    alignment,
    attributes,
    caption_back,
    dynamics,
    events,
    fidelity,
    given,
    reconstruction,
    stories,
    teacher,
    variety,
)
from t2v.evaluation.networks import Networks
from t2v.evaluation.rows import (
    AS_GIVEN,
    BLUR,
    CEILING,
    CHANCE,
    FADE,
    GUESS,
    HOLD,
    MODEL,
    OTHER_SEED,
    REAL,
    STILL,
    TEACHER,
    TEXT,
)
from t2v.evaluation.types import Kind, Measurements, Videos
from t2v.pipelines.generator import Generator

Net = TypeVar("Net")


@dataclass(frozen=True)
class Metric(Generic[Net]):
    """A family of metrics: its network, its measurements, and the rows it is shown for.

    Args:
        load: loads the network, before anything is sampled.
        measure: measures the videos of one row; they are `NotRun` without a network.
        rows: names of rows; those without videos are left out.
        guess: measures the best constant answer, for a row of its own.
        of: the kinds of suites that it is of.
    """

    load: Callable[[Networks], Net]
    measure: Callable[[Videos, Net], Measurements]
    rows: tuple[str, ...]
    guess: Callable[[Videos, Net], Measurements | None] | None = None
    of: tuple[Kind, ...] = ("plain", "given", "story")


CLIPS: tuple[Kind, ...] = ("plain", "given")
COPIES = (HOLD, FADE, AS_GIVEN)
METRICS: dict[str, Metric[Any]] = {
    "world": Metric(
        attributes.load,
        attributes.measure,
        (MODEL, TEACHER, CEILING, REAL, TEXT, *COPIES),
        guess=attributes.guess,
    ),
    "given": Metric(
        given.load, given.measure, (MODEL, CEILING, REAL, TEXT, *COPIES, CHANCE), of=("given",)
    ),
    "story": Metric(stories.load, stories.measure, (MODEL, CEILING, REAL, CHANCE), of=("story",)),
    "events": Metric(events.load, events.measure, (MODEL, CEILING, REAL, CHANCE), of=("story",)),
    "alignment": Metric(
        alignment.load, alignment.measure, (MODEL, TEACHER, CEILING, REAL, CHANCE), of=CLIPS
    ),
    "caption back": Metric(
        caption_back.load, caption_back.measure, (MODEL, TEACHER, REAL, CHANCE), of=CLIPS
    ),
    "dynamics": Metric(
        dynamics.load, dynamics.measure, (MODEL, TEACHER, CEILING, REAL, STILL, BLUR), of=CLIPS
    ),
    "fidelity": Metric(
        fidelity.load, fidelity.measure, (MODEL, TEACHER, CEILING, REAL, STILL, BLUR), of=CLIPS
    ),
    "teacher": Metric(teacher.load, teacher.measure, (MODEL, OTHER_SEED), of=("plain",)),
    "variety": Metric(variety.load, variety.measure, (MODEL, TEACHER, REAL, CHANCE), of=("plain",)),
    "reconstruction": Metric(
        reconstruction.load, reconstruction.measure, (CEILING, BLUR, CHANCE), of=("plain",)
    ),
}


def check_metrics(names: Sequence[str], suite: str, kind: Kind) -> None:
    """Check that metrics exist, and that one of them is for this suite.

    Args:
        names: as the settings have them; none: all.
        suite: its name, for the message.
        kind: its kind.

    Raises:
        UserError: not so.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise UserError(
            f"metrics={unknown[0]}: no such metric. Allowed: {', '.join(METRICS)}; or leave "
            "metrics out for all."
        )
    fitting = [name for name, each in METRICS.items() if kind in each.of]
    if names and not set(names) & set(fitting):
        raise UserError(
            f"metrics={list(names)}: none of them is for suites=[{suite}]. For that there are "
            f"{', '.join(fitting)}."
        )


def load_networks(config: EvalConfig, generator: Generator) -> dict[str, Any]:
    """Load the network of every metric that is asked for.

    Raises:
        UserError: one that the settings name cannot be loaded.
    """
    networks = Networks(config, generator)
    asked = config.metrics or tuple(METRICS)
    return {name: metric.load(networks) for name, metric in METRICS.items() if name in asked}


def measure(rows: dict[str, Videos], nets: dict[str, Any]) -> dict[str, dict[str, Measurements]]:
    """Return the measurements of every metric in `nets`, by metric and row.

    Args:
        rows: videos by the names of `ROWS`, the model's among them.
        nets: as `load_networks` gives them.
    """
    found = {}
    for name in nets:
        metric = METRICS[name]
        if rows[MODEL].kind not in metric.of:
            continue
        by_row = {row: metric.measure(rows[row], nets[name]) for row in metric.rows if row in rows}
        if metric.guess and (guess := metric.guess(rows[MODEL], nets[name])):
            by_row[GUESS] = guess
        found[name] = by_row
    return found
