"""Contact sheets: videos as rows of frames in one image."""

from __future__ import annotations

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

SHEET_FRAMES = 5


def contact_sheet(videos: Tensor) -> Image.Image:
    """Videos below each other, some evenly spaced frames of each from left to right.

    Args:
        videos: `n t h w c` in [0, 1].
    """
    frames = torch.linspace(0, videos.shape[1] - 1, SHEET_FRAMES).round().long()
    sheet = rearrange(videos[:, frames.unique()].cpu(), "n t h w c -> (n h) (t w) c")
    return Image.fromarray((sheet.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
