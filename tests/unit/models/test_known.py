"""Known latents: tokens with a time of their own, and their way back after a step."""

import pytest
import torch

from t2v.errors import UserError
from t2v.models.conditions import Conditions
from t2v.models.known import (
    frame_at,
    picture_position,
    pictures_held,
    put_back,
    softened,
    token_times,
    transformer_inputs,
    whole_tokens,
)

PATCH = (1, 2, 2)


@pytest.fixture
def conditions(transformer) -> Conditions:
    generator = torch.Generator().manual_seed(0)
    channels, width = transformer.config.in_channels, transformer.config.text_dim
    mask = torch.zeros(2, 1, 3, 4, 4)
    mask[:, :, 0] = 1
    transformer.take_known(picture_tokens=True)
    return Conditions(
        text=torch.randn(2, 5, width, generator=generator),
        known=torch.randn(2, channels, 3, 4, 4, generator=generator),
        known_mask=mask,
    )


@pytest.fixture
def noisy(transformer) -> torch.Tensor:
    shape = 2, transformer.config.in_channels, 3, 4, 4
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_a_frame_lies_in_the_middle_of_the_latent_frame_that_stands_for_it():
    assert [picture_position(f, 4) for f in (0, 1, 4, 16)] == [0.0, 0.625, 1.375, 4.375]
    middle = sum(picture_position(f, 4) for f in (5, 6, 7, 8)) / 4
    assert middle == 2.0
    for temporal in (1, 2, 4, 8):
        places = torch.tensor([picture_position(f, temporal) for f in range(200)]).tolist()
        assert [frame_at(place, temporal) for place in places] == list(range(200))


def test_known_tokens_are_clean_at_time_0_and_the_others_untouched(transformer, conditions, noisy):
    t = torch.tensor([700.0, 300.0])
    inputs = transformer_inputs(transformer, noisy, t, conditions)
    latents, times = inputs["hidden_states"], inputs["timestep"].unflatten(1, (3, 4))
    assert torch.equal(latents[:, :, :1], conditions.known[:, :, :1])
    assert torch.equal(latents[:, :, 1:], noisy[:, :, 1:])
    assert torch.equal(times[:, 0], torch.zeros(2, 4))
    assert torch.equal(times[:, 1:], t.view(2, 1, 1).expand(2, 2, 4))


def test_with_nothing_known_the_transformer_is_given_what_it_always_was(transformer, noisy):
    transformer.take_known(picture_tokens=True)
    text = Conditions(text=torch.ones(2, 5, transformer.config.text_dim))
    t = torch.tensor([700.0, 300.0])
    inputs = transformer_inputs(transformer, noisy, t, text)
    assert inputs["hidden_states"] is noisy and inputs["timestep"] is t


def test_latents_that_are_less_than_sure_hold_until_their_own_time(transformer, conditions, noisy):
    half = Conditions(
        text=conditions.text, known=conditions.known, known_mask=conditions.known_mask * 0.6
    )
    noise = torch.ones_like(noisy)
    soft = softened(half, noise)
    assert torch.allclose(soft.known[:, :, 0], 0.6 * conditions.known[:, :, 0] + 0.4)
    early = transformer_inputs(transformer, noisy, torch.tensor([700.0, 500.0]), soft)
    assert torch.equal(early["hidden_states"][:, :, 0], soft.known[:, :, 0])
    assert torch.allclose(early["timestep"][:, :4], torch.tensor(400.0))
    late = transformer_inputs(transformer, noisy, torch.tensor([300.0, 100.0]), soft)
    assert torch.equal(late["hidden_states"], noisy)
    at = torch.tensor
    unchanged = put_back(noisy, soft, at(700.0), at(500.0))
    assert torch.equal(unchanged, noisy)
    passed = put_back(noisy, soft, at(500.0), at(300.0))
    assert torch.equal(passed[:, :, 0], soft.known[:, :, 0])
    assert torch.equal(passed[:, :, 1:], noisy[:, :, 1:])
    assert torch.equal(put_back(noisy, soft, at(300.0), at(0.0)), noisy)
    assert softened(conditions, noise) is conditions


def test_sure_latents_come_back_after_the_last_step(conditions, noisy):
    end = put_back(noisy, conditions, torch.tensor(125.0), torch.tensor(0.0))
    assert torch.equal(end[:, :, 0], conditions.known[:, :, 0])
    assert torch.equal(end[:, :, 1:], noisy[:, :, 1:])


def test_a_token_is_known_when_all_of_it_is():
    mask = torch.ones(1, 1, 1, 4, 4)
    mask[..., 1, 3] = 0
    whole = whole_tokens(mask, PATCH)
    assert whole.flatten().tolist() == [1, 1, 0, 0] * 2 + [1] * 8
    assert token_times(1000 * (1 - mask), PATCH).tolist() == [[0, 1000, 0, 0]]


def test_frames_may_have_times_of_their_own(transformer, noisy):
    text = Conditions(text=torch.ones(2, 5, transformer.config.text_dim))
    t = torch.tensor([[100.0, 200.0, 300.0], [400.0, 500.0, 600.0]])
    inputs = transformer_inputs(transformer, noisy, t, text)
    assert torch.equal(inputs["timestep"], t.repeat_interleave(4, dim=1))


def test_pictures_change_what_is_made_and_not_the_shape(transformer, conditions, noisy):
    with torch.no_grad():
        transformer.proj_out.weight.normal_(generator=torch.Generator().manual_seed(2))
    text = Conditions(text=conditions.text)
    pictures = Conditions(
        text=conditions.text,
        pictures=conditions.known[:, :, :2],
        picture_positions=torch.tensor([[1.0, 2.375], [0.625, 1.0]]),
    )
    t = torch.tensor([700.0, 300.0])
    plain, given = (
        transformer(**transformer_inputs(transformer, noisy, t, each)).sample
        for each in (text, pictures)
    )
    assert given.shape == plain.shape == noisy.shape
    assert not torch.allclose(given, plain)
    alone = transformer(
        **transformer_inputs(transformer, noisy[1:], t[1:], pictures.rows(slice(1, None)))
    ).sample
    assert torch.allclose(given[1:], alone, atol=1e-5)


def test_a_model_of_another_kind_says_what_it_takes(transformer, noisy):
    text = torch.ones(2, 5, transformer.config.text_dim)
    t = torch.tensor([700.0, 300.0])
    known = Conditions(text=text, known=noisy, known_mask=torch.ones_like(noisy[:, :1]))
    with pytest.raises(UserError, match="has conditioning='none'"):
        transformer_inputs(transformer, noisy, t, known)
    pictures = Conditions(text=text, pictures=noisy[:, :, :1], picture_positions=torch.zeros(2, 1))
    with pytest.raises(UserError, match="picture_tokens=false"):
        transformer_inputs(transformer, noisy, t, pictures)


@pytest.fixture
def finished(vae) -> tuple[torch.Tensor, Conditions]:
    """Latents of two videos of 13 frames that know latent 2, and pictures for frames 2 and 11."""
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(2, 8, 4, 2, 2, generator=generator)
    mask = torch.zeros(2, 1, 4, 2, 2)
    mask[:, :, 2] = 1
    pictures = torch.randn(2, 8, 2, 2, 2, generator=generator)
    places = torch.tensor([[picture_position(frame, 4) for frame in (2, 11)]]).expand(2, -1)
    return latents, Conditions(
        text=torch.zeros(2, 1, 1), known=latents, known_mask=mask,
        pictures=pictures, picture_positions=places,
    )  # fmt: skip


def test_pictures_move_the_latents_of_their_frames_and_known_ones_stay(vae, finished):
    latents, conditions = finished
    held = pictures_held(vae, latents, conditions)
    changed = (held != latents).flatten(3).any(3).any(1)
    assert changed.tolist() == [[False, True, False, True]] * 2
    alone = pictures_held(vae, latents[1:], conditions.rows(slice(1, None)))
    assert torch.equal(alone, held[1:])
    at_once = pictures_held(vae.to(torch.bfloat16), latents.bfloat16(), conditions)
    assert at_once.dtype == torch.bfloat16 and at_once.isfinite().all()


def test_without_a_picture_of_a_frame_latents_keep_their_bits(vae, finished):
    latents, conditions = finished
    text = Conditions(text=conditions.text, known=latents, known_mask=conditions.known_mask)
    assert pictures_held(vae, latents, text) is latents
    example = Conditions(
        text=conditions.text,
        pictures=conditions.pictures[:, :, :1],
        picture_positions=torch.zeros(2, 1),
    )
    assert torch.equal(pictures_held(vae, latents, example), latents)


def test_a_model_that_learns_pictures_keeps_the_references_that_it_takes(transformer):
    transformer.take_known(picture_tokens=False, references=2)
    transformer.take_known(picture_tokens=True)
    assert transformer.config.references == 2 and transformer.config.picture_tokens
    transformer.take_known(picture_tokens=True, references=0)
    assert transformer.config.references == 0
