"""The panels of trainings: which figures stand in one plot, over steps or hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2v.studio.plots import Curve, smoothed, svg, wants_log
from t2v.studio.records import Numbers, Record

# of steps that a mean is taken of, by the place of the slider
WINDOWS = (1, 5, 11, 25, 51, 101, 251, 501, 1001, 2501, 5001)
FIRST = ("loss", "grad_norm", "lr_factor", "psnr")  # panels shown where nobody chose
COLOURS = 8  # of `runs.css`
ROWS = 25  # of the table
LEAST_WINDOWS = 5  # of a curve: a mean over most of a short training would say nothing of it
UNTUNED = "_untuned"  # ends figures of before the first step, in the lines of a training
# they belong to other figures, or are none
_APART = {"step", "val_change", "val_chance", "val_forgotten_chance"}
_TOGETHER = {"val_train_loss": "loss"}


@dataclass(frozen=True)
class Shown:
    """A training of a plot.

    Args:
        name: empty where it is the only one.
        untrained: figures of before its first step.
    """

    name: str
    record: Record
    untrained: Mapping[str, float]


@dataclass(frozen=True)
class View:
    """The way that people chose to look at the figures.

    Args:
        panels: that are shown; empty: the usual ones.
        scale: auto, log or linear.
        window: of steps that a mean is taken of.
        width: of a plot, in pixels.
    """

    panels: tuple[str, ...]
    by_hours: bool
    scale: str
    window: int
    width: int


def panel_of(name: str) -> str:
    """The panel of a figure, by its name; empty: it stands in none."""
    if name in _APART:
        return ""
    return _TOGETHER.get(name, name.removeprefix("val_").removesuffix(UNTUNED))


def panels_of(runs: Sequence[Shown]) -> list[str]:
    """All panels of some trainings, the usual ones first."""
    names = (name for run in runs for name in (*run.record.columns(), *run.untrained))
    found = dict.fromkeys(panel for panel in map(panel_of, names) if panel)
    return [*(each for each in FIRST if each in found), *(e for e in found if e not in FIRST)]


def chosen(runs: Sequence[Shown], view: View) -> list[str]:
    """The panels that are shown."""
    found = panels_of(runs)
    some = [panel for panel in found if panel in (view.panels or FIRST)]
    return some or found[:3]


def drawn(runs: Sequence[Shown], view: View) -> list[dict[str, Any]]:
    """The panels with their plots and legends."""
    found = []
    for panel in chosen(runs, view):
        curves = curves_of(panel, runs, view)
        is_log = view.scale == "log" or (view.scale == "auto" and wants_log(curves))
        x_name = "hours" if view.by_hours else "steps"
        picture = svg(curves, panel, x_name, view.width, is_log)
        legend = [{"colour": c.colour, "label": c.label} for c in curves if not c.is_faint]
        found.append({"name": panel, "svg": picture, "legend": legend, "is_log": is_log})
    return found


def curves_of(panel: str, runs: Sequence[Shown], view: View) -> list[Curve]:
    """The curves of a panel: what was measured at steps, its mean, and validations with marks."""
    curves: list[Curve] = []
    colour = 0
    for run in runs:
        columns = run.record.columns()
        across = _across(columns, view.by_hours)
        for name in dict.fromkeys((*columns, *run.untrained)):
            if panel_of(name) != panel or (run.untrained and name.endswith(UNTUNED)):
                continue  # what a model did before its first step is the first of its validations
            label = f"{run.name}: {name}" if run.name else name
            if name.startswith("val_"):
                curves.append(_validated(name, label, colour, run, across))
            else:
                curves += _measured(columns[name], label, colour, across, view.window)
            colour = (colour + 1) % COLOURS
    return [curve for curve in curves if len(curve.x)]


def _across(columns: Mapping[str, Numbers], by_hours: bool) -> Numbers:
    if by_hours and "seconds" in columns:
        return np.cumsum(np.maximum(np.nan_to_num(columns["seconds"], posinf=0), 0)) / 3600
    return columns["step"]


def _measured(
    values: Numbers, label: str, colour: int, across: Numbers, window: int
) -> list[Curve]:
    known = np.isfinite(values)
    x, y = across[known], values[known]
    window = min(window, max(1, len(y) // LEAST_WINDOWS))
    if window == 1:
        return [Curve(label, colour, x, y)]
    return [Curve(label, colour, x, y, is_faint=True), Curve(label, colour, x, smoothed(y, window))]


def _validated(name: str, label: str, colour: int, run: Shown, across: Numbers) -> Curve:
    """A figure of validations; the held-out loss has the interval that its verdict rests on."""
    columns = run.record.columns()
    nothing = np.full(len(across), np.nan)
    values = columns.get(name, nothing)
    half = columns.get("val_chance", nothing) if name == "val_loss" else nothing
    known = np.isfinite(values)
    x, y, half = across[known], values[known], half[known]
    if name in run.untrained:
        x, y = np.append(0.0, x), np.append(run.untrained[name], y)
        half = np.append(np.nan, half)
    return Curve(label, colour, x, y, half)


def table(runs: Sequence[Shown], view: View) -> dict[str, Any]:
    """The shown figures at some steps: those of validations, or steps at even distances."""
    every = [c for p in chosen(runs, view) for c in curves_of(p, runs, view) if not c.is_faint]
    if not every:
        return {"heads": [], "rows": []}
    marks = [curve.x for curve in every if curve.half is not None]
    at = np.unique(np.concatenate(marks or [curve.x for curve in every]))
    at = np.unique(at[np.linspace(0, len(at) - 1, min(ROWS, len(at))).astype(int)])
    rows = []
    for x in at:
        cells = [_cell(curve, x) for curve in every]
        rows.append([f"{x:.3g}" if view.by_hours else f"{x:,.0f}", *cells])
    return {
        "heads": ["hours" if view.by_hours else "step", *(c.label for c in every)],
        "rows": rows,
    }


def _cell(curve: Curve, x: float) -> str:
    index = int(np.searchsorted(curve.x, x, side="right")) - 1
    if index < 0 or (curve.half is not None and curve.x[index] != x):
        return ""
    return f"{curve.y[index]:.4g}"
