"""Windows: tokens attend within boxes of frames, rows and columns."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from t2v.models.attention.layout import Grid, Layout, attend_to_seen
from t2v.models.attention.sight import windows


def window_view(rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int) -> Any:
    """The rotations, and the windows of `options` (frames, height, width; -1: all)."""
    t, h, w = options
    sizes = (grid["t"], grid["h"], grid["w"])
    return rotations, (windows(sizes, (t, h, w), rotations.device),)


# VidGen-1M (arXiv 2408.02629): its temporal branch sees all frames of 4x4 places. Its code wants
# sides that are multiples of 4; here the last windows are padded, and padding is masked.
WINDOW = Layout(attend=attend_to_seen, view=window_view, options=(-1, 4, 4))
