"""Curves, drawn as SVG by the server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from t2v.studio.records import Numbers

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 240, 58, 8, 8, 24  # pixels
WIDE_ENOUGH_FOR_LOG = 20.0  # times that the largest value is the smallest, of most of them


@dataclass(frozen=True)
class Curve:
    """Some values over steps or hours.

    Args:
        label: as the legend has it.
        colour: number of a colour of `runs.css`.
        x, y: `n` each, finite, x not falling.
        half: half of the interval of each value, `n`, nan where there is none; None: a line
            without marks.
        is_faint: it lies behind another, which smooths it.
    """

    label: str
    colour: int
    x: Numbers
    y: Numbers
    half: Numbers | None = None
    is_faint: bool = False


def smoothed(values: Numbers, window: int) -> Numbers:
    """Return the mean of `window` values around each one, `n`; of fewer at both ends."""
    n, half = len(values), window // 2
    if half == 0 or n < 2:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low, high = np.maximum(np.arange(n) - half, 0), np.minimum(np.arange(n) + half + 1, n)
    return (sums[high] - sums[low]) / (high - low)


def wants_log(curves: Sequence[Curve]) -> bool:
    """Return whether a logarithmic axis shows more: all values positive, and far apart."""
    every = np.concatenate([curve.y for curve in curves]) if curves else np.empty(0)
    if not len(every) or every.min() <= 0:
        return False
    low, high = np.quantile(every, [0.02, 0.98])
    return bool(high > WIDE_ENOUGH_FOR_LOG * low)


def svg(curves: Sequence[Curve], title: str, x_name: str, width: int, is_log: bool) -> str:
    """Return a plot as SVG of classes alone, without style or script; texts are escaped.

    Each curve has `data-points`, what a script shows under the pointer.

    Args:
        width: pixels.
        is_log: the y axis is logarithmic; values that are not positive are left out.
    """
    curves = [_positive(curve) if is_log else curve for curve in curves]
    curves = [curve for curve in curves if len(curve.x)]
    if not curves:
        return '<p class="quiet">No values yet.</p>'
    across = _Axis.of([curve.x for curve in curves], LEFT, width - RIGHT, False)
    ys = [each for curve in curves for each in _tall(curve)]
    up = _Axis.of(ys, HEIGHT - BOTTOM, TOP, is_log)
    parts = [_grid(across, up, width)]
    parts += [_drawn(curve, across, up) for curve in sorted(curves, key=lambda c: not c.is_faint)]
    said = "; ".join(f"{c.label}: {c.y[-1]:.4g}" for c in curves if not c.is_faint)
    label = escape(f"{title} over {x_name}; last values: {said}")
    return (
        f'<svg class="plot" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{label}" '
        f'data-left="{LEFT}" data-right="{width - RIGHT}" data-low="{across.low!r}" '
        f'data-high="{across.high!r}" data-x="{escape(x_name)}">{"".join(parts)}</svg>'
    )


def _positive(curve: Curve) -> Curve:
    known = curve.y > 0
    half = None if curve.half is None else curve.half[known]
    return Curve(curve.label, curve.colour, curve.x[known], curve.y[known], half, curve.is_faint)


def _tall(curve: Curve) -> list[Numbers]:
    """The values that the axis has to reach: of a curve that another smooths, most."""
    if curve.is_faint and len(curve.y) > 100:
        return [np.quantile(curve.y, [0.01, 0.99])]
    if curve.half is None:
        return [curve.y]
    half = np.nan_to_num(curve.half)
    return [curve.y - half, curve.y + half]


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` on pixels from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float
    is_log: bool

    @classmethod
    def of(cls, values: Sequence[Numbers], begin: float, end: float, is_log: bool) -> _Axis:
        every = np.concatenate(values)
        every = every[every > 0] if is_log else every
        low, high = float(every.min()), float(every.max())
        if low == high:
            low, high = (low / 2, high * 2) if is_log else (low - 0.5, high + 0.5)
        return cls(low, high, begin, end, is_log)

    def at(self, values: Numbers) -> Numbers:
        """Pixels of values."""
        low, high = self.low, self.high
        if self.is_log:
            low, high = math.log(low), math.log(high)
            values = np.log(np.maximum(values, self.low / 1e3))
        return self.begin + (values - low) / (high - low) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Round values, a handful."""
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for factors in ((1,), (1, 3), (1, 2, 5)):
                found = [f * 10.0**p for p in powers for f in factors]
                found = [each for each in found if self.low <= each <= self.high]
                if len(found) >= 3:
                    return found[:: max(1, len(found) // 6)]
        raw = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw)
        first = math.ceil(self.low / step)
        return [n * step for n in range(first, math.floor(self.high / step) + 1)]


def _grid(across: _Axis, up: _Axis, width: int) -> str:
    parts = []
    for tick in up.ticks():
        y = up.at(np.array([tick]))[0]
        parts.append(
            f'<line class="rule" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>'
        )
    for tick in across.ticks()[:: 1 if width > 420 else 2]:
        x = across.at(np.array([tick]))[0]
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{_short(tick)}</text>'
        )
    return "".join(parts)


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _drawn(curve: Curve, across: _Axis, up: _Axis) -> str:
    x, y = _thinned(curve.x, curve.y, across) if curve.half is None else (curve.x, curve.y)
    left, top = across.at(x), np.clip(up.at(y), TOP - 4, HEIGHT - BOTTOM + 4)
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(left, top, strict=True))
    kind = "faint" if curve.is_faint else "curve" if curve.half is None else "curve dashed"
    parts = [f'<path class="{kind} c{curve.colour}" d="M{path}"']
    if not curve.is_faint:
        points = " ".join(f"{a:.6g},{b:.4g}" for a, b in zip(x, y, strict=True))
        parts.append(f' data-label="{escape(curve.label)}" data-points="{points}"')
    parts.append("/>")
    if curve.half is not None:
        parts += _marks(curve, left, top, up)
    return "".join(parts)


def _marks(curve: Curve, left: Numbers, top: Numbers, up: _Axis) -> list[str]:
    assert curve.half is not None
    parts = []
    for index, half in enumerate(curve.half):
        at = f"{left[index]:.1f}"
        if math.isfinite(half):
            ends = np.array([curve.y[index] - half, curve.y[index] + half])
            low, high = np.clip(up.at(ends), TOP - 4, HEIGHT - BOTTOM + 4)
            parts.append(
                f'<line class="interval c{curve.colour}" x1="{at}" x2="{at}" '
                f'y1="{low:.1f}" y2="{high:.1f}"/>'
            )
        parts.append(f'<circle class="c{curve.colour}" cx="{at}" cy="{top[index]:.1f}" r="3"/>')
    return parts


def _thinned(x: Numbers, y: Numbers, across: _Axis) -> tuple[Numbers, Numbers]:
    """Of many points the lowest and the highest of each pixel, so that no peak is lost."""
    if len(x) < 2 * (across.end - across.begin):
        return x, y
    column = across.at(x).astype(np.int64)
    starts = np.flatnonzero(np.diff(column, prepend=column[0] - 1))
    low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    at = np.repeat(x[starts], 2)
    return at, np.stack([low, high], 1).ravel()
