"""The size of a batch, and videos of that size without content."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor


@dataclass(frozen=True)
class Size:
    """The clips of one batch."""

    batch: int
    frames: int
    height: int
    width: int
    tokens: int = 0  # of text

    def __str__(self) -> str:
        return f"{self.batch} x {self.frames} frames of {self.width} x {self.height}"


def black(size: Size, device: str | torch.device) -> Tensor:
    """Black clips `b c t h w`, in the memory order of clips that are read."""
    shape = size.batch, size.frames, size.height, size.width, 3
    return rearrange(torch.zeros(shape, device=device), "b t h w c -> b c t h w")
