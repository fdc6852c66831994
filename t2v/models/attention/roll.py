"""Token rolling: a frame's tokens attend to their frame, into which its neighbours' are rolled."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from t2v.models.attention.layout import Grid, Layout, attend_to_seen
from t2v.models.attention.sight import windows

EVERY = 8  # places: one shows the frame before, one four further on the frame after


def roll_view(rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int) -> Any:
    """The rotations, and frames as windows whose keys are rolled along time, in a circle."""
    sizes = (grid["t"], grid["h"], grid["w"])
    frames = windows(sizes, (1, -1, -1), rotations.device)
    place = rearrange(torch.arange(frames.keys.shape[1], device=rotations.device), "p -> 1 p")
    keys = torch.where(place % EVERY == 0, frames.keys.roll(1, 0), frames.keys)
    keys = torch.where(place % EVERY == EVERY // 2, frames.keys.roll(-1, 0), keys)
    return rotations, (frames._replace(keys=keys),)


# All in One (arXiv 2203.07303, 3.2), which rolls an eighth of the tokens each way. There a token
# moves for good; a denoiser answers for each place, so the keys and values roll and the queries
# stay. The eighths are spread over the frame, so that it sees its neighbours coarsely everywhere.
ROLL = Layout(attend=attend_to_seen, view=roll_view)
