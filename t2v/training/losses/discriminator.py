"""The adversary of a VAE: a network that tells patches of real clips from reconstructed ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

LAYERS = 3  # that halve height and width; the last two halve the frames too
SLOPE = 0.2
MOST = 1e4  # as in VQGAN's code: where the adversary's gradient vanishes, its word is not blown up


class PatchDiscriminator(nn.Module):
    """A logit for each patch of a clip, high where it looks real: a 3D PatchGAN (arXiv 1611.07004).

    It has no norms, so a logit depends on its patch alone; what bounds its slope is R1. A patch is
    17 frames of 38 x 38 pixels. A clip of one frame is taken as any other.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = [channels, *(width * 2**n for n in range(LAYERS))]
        self.layers = nn.ModuleList(
            nn.Conv3d(i, o, (3, 4, 4), (1 if first else 2, 2, 2), padding=1)
            for first, i, o in zip((True, False, False), widths, widths[1:], strict=False)
        )
        self.out = nn.Conv3d(widths[-1], 1, 3, padding=1)

    def forward(self, video: Tensor) -> Tensor:
        """Logits `b 1 t' h' w'` of `video`, `b c t h w` in [-1, 1]."""
        x = video.contiguous(memory_format=torch.channels_last_3d)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
        return self.out(x)


class Verdict(NamedTuple):
    """What the two sides of the game are told, scalars each."""

    told: Tensor  # for the VAE: falls as its clips look real
    error: Tensor  # for the discriminator: the hinge loss; 1 where it cannot tell
    slope: Tensor  # R1's penalty, for the discriminator


def judge(discriminator: nn.Module, real: Tensor, reconstructed: Tensor) -> Verdict:
    """One look at real and reconstructed clips; each side's gradients stay on its side.

    The hinge loss (arXiv 1705.02894), and R1 (arXiv 1801.04406, eq. 9): the squared slope of the
    discriminator at real clips, here for each patch.

    Args:
        real, reconstructed: `b c t h w`.
    """
    frozen = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    told = -functional_call(discriminator, frozen, (reconstructed,)).float().mean()
    real = real.detach().requires_grad_()
    logits = discriminator(real).float()
    (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    others = discriminator(reconstructed.detach()).float()
    error = (F.relu(1 - logits).mean() + F.relu(1 + others).mean()) / 2
    return Verdict(told, error, slope.float().square().sum() / logits.numel())


def adaptive_weight(loss: Tensor, told: Tensor, last: Tensor) -> Tensor:
    """What makes the adversary's gradient at the decoder's last layer as long as that of `loss`.

    VQGAN, arXiv 2012.09841, eq. 7.

    Args:
        loss: what is minimised without an adversary.
        told: see `Verdict`.
        last: the weight of that layer.
    """
    ours, theirs = (
        torch.autograd.grad(each, last, retain_graph=True)[0].float().norm()
        for each in (loss, told)
    )
    return (ours / (theirs + 1e-4)).clamp(max=MOST).detach()
