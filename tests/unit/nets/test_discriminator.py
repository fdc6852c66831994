"""A logit of the discriminator belongs to one patch."""

import pytest
import torch

from t2v.nets.discriminator import PatchDiscriminator


@pytest.fixture
def clips():
    return torch.randn(2, 3, 5, 16, 24, generator=torch.Generator().manual_seed(0))


def test_every_patch_of_clips_and_of_images_has_a_logit(clips):
    network = PatchDiscriminator(3, width=4)
    assert network(clips).shape == (2, 1, 2, 2, 3)
    assert network(clips[:, :, :1]).shape == (2, 1, 1, 2, 3)


def test_a_logit_depends_on_its_patch_alone():
    network = PatchDiscriminator(3, width=4)
    clip = torch.zeros(1, 3, 1, 64, 64)
    other = clip.clone()
    other[..., 48:, 48:] = 1
    changed = (network(clip) != network(other))[0, 0, 0]
    assert changed[-1, -1]
    assert not changed[:3, :3].any()
