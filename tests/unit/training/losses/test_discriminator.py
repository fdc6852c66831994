"""What the discriminator sees, and that each side of the game feels its own loss alone."""

import pytest
import torch
from torch import nn

from t2v.training.losses.discriminator import PatchDiscriminator, adaptive_weight, judge


@pytest.fixture
def clips():
    return torch.randn(2, 2, 3, 5, 16, 24, generator=torch.Generator().manual_seed(0))


def test_every_patch_of_clips_and_of_images_has_a_logit(clips):
    network = PatchDiscriminator(3, width=4)
    assert network(clips[0]).shape == (2, 1, 2, 2, 3)
    assert network(clips[0][:, :, :1]).shape == (2, 1, 1, 2, 3)


def test_a_logit_depends_on_its_patch_alone():
    network = PatchDiscriminator(3, width=4)
    clip = torch.zeros(1, 3, 1, 64, 64)
    other = clip.clone()
    other[..., 48:, 48:] = 1
    changed = (network(clip) != network(other))[0, 0, 0]
    assert changed[-1, -1]
    assert not changed[:3, :3].any()


def test_each_side_feels_its_own_loss(clips):
    real, recon = clips[0], clips[1].clone().requires_grad_()
    network = PatchDiscriminator(3, width=4)
    seen = judge(network, real, recon)
    seen.told.backward(retain_graph=True)
    assert recon.grad.abs().max() > 0
    assert all(p.grad is None for p in network.parameters())
    recon.grad = None
    (seen.error + seen.slope).backward()
    assert recon.grad is None
    assert all(p.grad.abs().max() > 0 for p in network.parameters() if p.ndim > 1)


def test_the_losses_of_a_linear_discriminator_are_those_done_by_hand(clips):
    network = nn.Conv3d(3, 1, 1)
    seen = judge(network, *clips)
    real, recon = (network(each) for each in clips)
    torch.testing.assert_close(seen.told, -recon.mean())
    hinge = (1 - real).clamp(min=0).mean() + (1 + recon).clamp(min=0).mean()
    torch.testing.assert_close(seen.error, hinge / 2)
    torch.testing.assert_close(seen.slope, network.weight.square().sum())


def test_the_adversary_pulls_as_hard_as_the_other_losses(clips):
    last = nn.Linear(24, 24)
    recon = last(clips[0])
    loss, told = recon.square().mean(), 1e3 * recon.mean()
    weight = adaptive_weight(loss, told, last.weight)
    (ours,) = torch.autograd.grad(loss, last.weight, retain_graph=True)
    (theirs,) = torch.autograd.grad(weight * told, last.weight)
    torch.testing.assert_close(theirs.norm(), ours.norm())
    assert not weight.requires_grad
