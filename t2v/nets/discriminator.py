"""A network that tells patches of real clips from reconstructed ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2v.models.convolution import Conv3d

LAYERS = 3  # that halve height and width; the last two halve the frames too
SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """A logit for each patch of a clip, high where it looks real: a 3D PatchGAN (arXiv 1611.07004).

    It has no norms, so a logit depends on its patch alone; what bounds its gradient is R1. A patch
    is 17 frames of 38 x 38 pixels. A clip of one frame is taken as any other.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = [channels, *(width * 2**n for n in range(LAYERS))]
        self.layers = nn.ModuleList(
            Conv3d(i, o, (3, 4, 4), (1 if first else 2, 2, 2), padding=1)
            for first, i, o in zip((True, False, False), widths, widths[1:], strict=False)
        )
        self.out = Conv3d(widths[-1], 1, 3, padding=1)

    def forward(self, video: Tensor) -> Tensor:
        """Return logits `b 1 t' h' w'` of `video`, `b c t h w` in [-1, 1]."""
        x = video.contiguous(memory_format=torch.channels_last_3d)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
        return self.out(x)
