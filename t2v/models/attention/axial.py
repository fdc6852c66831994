"""Axial attention: along time, along a row and along a column, in turn from layer to layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from t2v.models.attention.layout import Grid, Layout, attend_to_seen
from t2v.models.attention.sight import windows

AXES = ((-1, 1, 1), (1, 1, -1), (1, -1, 1))  # temporal, row, column: GODIVA's order


def axis_view(rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int) -> Any:
    """The rotations, and the lines of one axis as windows."""
    sizes = (grid["t"], grid["h"], grid["w"])
    return rotations, (windows(sizes, AXES[turn], rotations.device),)


# GODIVA (arXiv 2104.14806, 3.2), without its causal masks: a denoiser sees the whole line
AXIAL = Layout(attend=attend_to_seen, view=axis_view, motion=("attn1",), turns=3, motion_turns=(0,))
