"""Causal attention, for models that make one token after the other: whole, and along the axes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from t2v.models.attention.layout import Grid, Layout, attend_to_seen
from t2v.models.attention.sight import Past, Sight


def earlier(grid: Grid, axis: int | None, device: torch.device) -> Tensor:
    """True where a token sees another: itself and those before it, `n n` by query and key.

    Args:
        axis: 0 to 2 for the line along time, of the row or of the column alone; None: all.
    """
    sizes = grid["t"], grid["h"], grid["w"]
    count = math.prod(sizes)
    seen = torch.ones(count, count, dtype=torch.bool, device=device).tril()
    if axis is None:
        return seen
    places = torch.stack(torch.unravel_index(torch.arange(count, device=device), sizes))
    same = places.unsqueeze(1) == places.unsqueeze(2)  # axis, query, key
    others = [same[each] for each in range(3) if each != axis]
    return seen & others[0] & others[1]


AXES = (0, 2, 1)  # temporal, row, column: GODIVA's order


def causal_view(rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int) -> Any:
    """The rotations, and the sight of all earlier tokens."""
    return rotations, (_sight(earlier(grid, None, rotations.device)),)


def causal_axial_view(rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int) -> Any:
    """The rotations, and the sight of the earlier tokens along one axis."""
    return rotations, (_sight(earlier(grid, AXES[turn], rotations.device)),)


def part_of_view(view: Any, places: Tensor, past: Past) -> Any:
    """The view of some tokens alone, whose earlier ones are in `past`.

    Args:
        view: of all tokens.
        places: theirs in the sequence, `k`.
    """
    rotations, (sight,) = view
    queries = torch.arange(len(places), device=places.device)
    seen = Sight(queries.unsqueeze(0), sight.keys, sight.mask[:, places], queries, past)
    return rotations[:, places], (seen,)


def _sight(mask: Tensor) -> Sight:
    places = torch.arange(len(mask), device=mask.device)
    return Sight(places.unsqueeze(0), places.unsqueeze(0), mask.unsqueeze(0), places)


CAUSAL = Layout(attend=attend_to_seen, view=causal_view)
# GODIVA (arXiv 2104.14806, 3.2)
CAUSAL_AXIAL = Layout(
    attend=attend_to_seen,
    view=causal_axial_view,
    motion=("attn1",),
    turns=3,
    motion_turns=(0,),
)
