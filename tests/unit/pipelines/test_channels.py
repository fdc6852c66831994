"""Known frames as channels beside the noise."""

from __future__ import annotations

import pytest
import torch

from t2v.errors import UserError
from t2v.models.widen import widen_input
from t2v.pipelines.channels import channel_mask, frames_as_channels
from t2v.pipelines.visuals import VideoCondition

TEMPORAL, LATENT = 4, 8  # of the `vae` fixture


def sample(pipe, **given):
    generator = torch.Generator().manual_seed(0)
    return pipe("a red ball", generator=generator, output_type="latent", **given).frames


def test_the_mask_has_a_channel_for_each_frame_of_a_latent_one():
    known = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0, 1])
    mask = channel_mask(known, 4)
    assert mask.T.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_unknown_frames_are_grey_whatever_stands_in_them(vae):
    frames = torch.rand(5, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    known = torch.tensor([1.0, 0, 0, 0, 0])
    beside = frames_as_channels(vae, frames, known, 3)
    assert beside.shape == (1, TEMPORAL + LATENT, 3, 4, 6)
    assert beside[0, :TEMPORAL, 0].all() and not beside[0, :TEMPORAL, 1:].any()
    other = torch.cat([frames[:1], torch.rand(4, 3, 32, 48)])
    assert torch.equal(frames_as_channels(vae, other, known, 3), beside)


def test_a_widened_text_model_takes_a_picture_and_computes_the_same_bits(pipe):
    plain = sample(pipe)
    widen_input(pipe.transformer, TEMPORAL + LATENT)
    picture = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sample(pipe, image=picture), plain)
    assert torch.equal(sample(pipe, image=picture, last_image=picture.flip(2)), plain)
    weight = pipe.transformer.patch_embedding.weight
    with torch.no_grad():
        weight[:, LATENT:] = torch.randn(weight[:, LATENT:].shape) / 10
    assert not torch.equal(sample(pipe, image=picture), sample(pipe, image=picture.flip(2)))


def test_a_picture_given_with_less_certainty_is_refused(pipe):
    widen_input(pipe.transformer, TEMPORAL + LATENT)
    condition = VideoCondition(torch.zeros(3, 32, 48), strength=0.5)
    with pytest.raises(UserError, match="keeps its pictures exactly: give strength=1"):
        sample(pipe, conditions=[condition])
    with pytest.raises(UserError, match="none is given: give image"):
        sample(pipe)
