"""Each side of the game feels its own loss alone."""

import pytest
import torch
from torch import nn

from t2v.nets.discriminator import PatchDiscriminator
from t2v.training.losses.discriminator import adaptive_weight, adversarial_losses


@pytest.fixture
def clips():
    return torch.randn(2, 2, 3, 5, 16, 24, generator=torch.Generator().manual_seed(0))


def test_each_side_feels_its_own_loss(clips):
    real, recon = clips[0], clips[1].clone().requires_grad_()
    network = PatchDiscriminator(3, width=4)
    losses = adversarial_losses(network, real, recon)
    losses.generator.backward(retain_graph=True)
    assert recon.grad.abs().max() > 0
    assert all(p.grad is None for p in network.parameters())
    recon.grad = None
    (losses.discriminator + losses.r1).backward()
    assert recon.grad is None
    assert all(p.grad.abs().max() > 0 for p in network.parameters() if p.ndim > 1)


def test_the_losses_of_a_linear_discriminator_are_those_done_by_hand(clips):
    network = nn.Conv3d(3, 1, 1)
    losses = adversarial_losses(network, *clips)
    real, recon = (network(each) for each in clips)
    torch.testing.assert_close(losses.generator, -recon.mean())
    hinge = (1 - real).clamp(min=0).mean() + (1 + recon).clamp(min=0).mean()
    torch.testing.assert_close(losses.discriminator, hinge / 2)
    torch.testing.assert_close(losses.r1, network.weight.square().sum())


def test_the_adversary_pulls_as_hard_as_the_other_losses(clips):
    last = nn.Linear(24, 24)
    recon = last(clips[0])
    loss, adversarial = recon.square().mean(), 1e3 * recon.mean()
    weight = adaptive_weight(loss, adversarial, last.weight)
    (ours,) = torch.autograd.grad(loss, last.weight, retain_graph=True)
    (theirs,) = torch.autograd.grad(weight * adversarial, last.weight)
    torch.testing.assert_close(theirs.norm(), ours.norm())
    assert not weight.requires_grad
