"""Spatial tiles: a function run tile by tile, and its outputs merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from einops import einsum
from torch import Tensor


class Span(NamedTuple):
    """One tile along one axis, in latent cells."""

    start: int  # the tile's own cells: start to stop
    stop: int
    begin: int  # the cells that the network is given: begin to end
    end: int


def spans(size: int, tile: int, halo: int) -> list[Span]:
    """Tiles of `tile` cells that cover `size`, each with `halo` more cells on every inner side."""
    starts = range(0, size, tile)
    stops = [min(start + tile, size) for start in starts]
    return [
        Span(start, stop, max(start - halo, 0), min(stop + halo, size))
        for start, stop in zip(starts, stops, strict=True)
    ]


def weights(span: Span, size: int, ramp: int, scale: int) -> Tensor:
    """The weight of each of a span's outputs; over all spans they add up to one.

    It rises from 0 to 1 over `ramp` cells on both sides of an inner edge; a `ramp` of 0 is a cut.
    """
    place = torch.arange(span.begin * scale, span.end * scale) + 0.5

    def rise(edge: int) -> Tensor:
        return ((place - edge * scale) / (2 * ramp * scale) + 0.5).clamp(0, 1)

    left = rise(span.start) if span.start > 0 else torch.ones_like(place)
    return left - rise(span.stop) if span.stop < size else left


def run_tiled(
    run: Callable[[Tensor], Tensor], x: Tensor, tile: int, halo: int, blend: bool, zoom: int
) -> Tensor:
    """`run(x)`, computed in spatial tiles.

    Args:
        run: from `b c t h w` to `b c' t' h' w'`.
        x: `b c t h w`.
        tile: own cells of a tile; a cell is the area of one latent.
        halo: further cells on each inner side. If the reach of `run` is at most `halo` cells, tiles
            without `blend` give the same as the whole.
        blend: mix neighbours linearly over the halo, for a `run` of longer reach.
        zoom: pixels per cell: positive if `run` decodes cells, negative if it encodes pixels.
    """
    enlarge, reduce = (zoom, 1) if zoom > 0 else (1, -zoom)
    rows, columns = x.shape[-2] // reduce, x.shape[-1] // reduce
    ramp = halo if blend else 0
    merged = None
    for row in spans(rows, tile, halo):
        for column in spans(columns, tile, halo):
            shown = x[..., row.begin * reduce : row.end * reduce, :]
            out = run(shown[..., column.begin * reduce : column.end * reduce])
            if merged is None:
                merged = out.new_zeros(*out.shape[:-2], rows * enlarge, columns * enlarge)
            share = einsum(
                weights(row, rows, ramp, enlarge),
                weights(column, columns, ramp, enlarge),
                "h, w -> h w",
            )
            place = merged[..., row.begin * enlarge : row.end * enlarge, :]
            place[..., column.begin * enlarge : column.end * enlarge] += out * share.to(out)
    assert merged is not None
    return merged


class Tile(NamedTuple):
    """The spans that a tile shows at each step of a network, and of its result."""

    rows: list[Span]
    columns: list[Span]


def cut(x: Tensor, tile: Tile | None, step: int) -> Tensor:
    """The part of `x` that a step is given, for the step before it has used its margin up."""
    for axis, steps in ((-2, tile.rows), (-1, tile.columns)) if tile is not None else ():
        old, new = steps[max(step - 1, 0)], steps[step]
        cell = x.shape[axis] // (old.end - old.begin)
        x = x.narrow(axis, (new.begin - old.begin) * cell, (new.end - new.begin) * cell)
    return x


def run_narrowing(
    run: Callable[[Tensor, Tile], Tensor],
    x: Tensor,
    size: tuple[int, int],
    side: tuple[int, int],
    margins: Sequence[int],
) -> Tensor:
    """`run(x)`, computed in spatial tiles whose margins narrow from step to step.

    Args:
        run: from `b c t h w` to `b c' t' h' w'`; it calls `cut` before each step and at the end.
        x: `b c t h w`, of some pixels for each cell.
        size: rows and columns of cells.
        side: own rows and columns of a tile.
        margins: cells on each inner side before each step, and at the end 0.
    """
    merged = None
    axes = [
        list(zip(*(spans(cells, own, margin) for margin in margins), strict=True))
        for cells, own in zip(size, side, strict=True)
    ]
    for rows, columns in product(*axes):
        tile = Tile(list(rows), list(columns))
        inner, outer = (tile.rows[0], tile.columns[0]), (tile.rows[-1], tile.columns[-1])
        part = x
        for axis, span in zip((-2, -1), inner, strict=True):
            cell = x.shape[axis] // size[axis]
            part = part.narrow(axis, span.begin * cell, (span.end - span.begin) * cell)
        out = run(part, tile)
        if merged is None:
            cells = [
                out.shape[axis] // (span.end - span.begin)
                for axis, span in zip((-2, -1), outer, strict=True)
            ]
            shape = [count * cell for count, cell in zip(size, cells, strict=True)]
            merged = out.new_empty(*out.shape[:-2], *shape)
        place = merged
        for axis, span, cell in zip((-2, -1), outer, cells, strict=True):
            place = place.narrow(axis, span.begin * cell, (span.end - span.begin) * cell)
        place.copy_(out)
    assert merged is not None
    return merged
