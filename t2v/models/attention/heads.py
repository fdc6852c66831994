"""Factorised heads: half of them attend within the frame, half along time."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from t2v.models.attention.layout import Grid, Layout, attend_to_seen
from t2v.models.attention.sight import windows


def space_and_time_view(rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int) -> Any:
    """The rotations, and the sights of both halves of the heads."""
    sizes = (grid["t"], grid["h"], grid["w"])
    in_space = windows(sizes, (1, -1, -1), rotations.device)
    in_time = windows(sizes, (-1, 1, 1), rotations.device)
    return rotations, (in_space, in_time)


# "factorised dot-product attention", model 4 of ViViT (arXiv 2103.15691, 3.3)
FACTORIZED_HEADS = Layout(attend=attend_to_seen, view=space_and_time_view, heads=2)
