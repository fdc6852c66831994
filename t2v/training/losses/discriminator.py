"""Adversarial losses of a VAE and of the discriminator that is trained beside it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

MAX_WEIGHT = 1e4  # as in VQGAN's code: where the discriminator's gradient vanishes


class AdversarialLosses(NamedTuple):
    """The losses of both sides of the game, scalars."""

    generator: Tensor  # of the VAE: falls as its clips look real
    discriminator: Tensor  # hinge loss; 1 where it cannot tell real from reconstructed
    r1: Tensor  # gradient penalty of the discriminator


def adversarial_losses(
    discriminator: nn.Module, real: Tensor, reconstructed: Tensor
) -> AdversarialLosses:
    """Compare real and reconstructed clips; each side's gradients stay on its side.

    The hinge loss (arXiv 1705.02894), and R1 (arXiv 1801.04406, eq. 9): the squared gradient of
    the discriminator at real clips, here for each patch.

    Args:
        real, reconstructed: `b c t h w`.
    """
    frozen = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    generator = -functional_call(discriminator, frozen, (reconstructed,)).float().mean()
    real = real.detach().requires_grad_()
    logits = discriminator(real).float()
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    others = discriminator(reconstructed.detach()).float()
    hinge = (F.relu(1 - logits).mean() + F.relu(1 + others).mean()) / 2
    return AdversarialLosses(generator, hinge, gradient.float().square().sum() / logits.numel())


def adaptive_weight(loss: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """Return the weight that makes both losses' gradients at the decoder's last layer as long.

    VQGAN, arXiv 2012.09841, eq. 7.

    Args:
        loss: the loss without a discriminator.
        adversarial: `AdversarialLosses.generator`.
        last: the weight of that layer.
    """
    ours, theirs = (
        torch.autograd.grad(each, last, retain_graph=True)[0].float().norm()
        for each in (loss, adversarial)
    )
    return (ours / (theirs + 1e-4)).clamp(max=MAX_WEIGHT).detach()
