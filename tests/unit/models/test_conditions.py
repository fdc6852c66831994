"""Conditions: one object on the way, named tensors at the transformer."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.conditions import IN_LATENTS, KEYWORDS, Conditions, input_channels


@pytest.fixture
def conditions() -> Conditions:
    generator = torch.Generator().manual_seed(0)
    return Conditions(
        text=torch.randn(3, 5, 4, generator=generator),
        text_mask=torch.rand(3, 5, generator=generator) > 0.5,
        known=torch.randn(3, 2, 1, 4, 4, generator=generator),
    )


class Told(nn.Module):
    """Answers with what its forward is given."""

    def forward(
        self, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return encoder_hidden_states, encoder_attention_mask


def test_every_field_becomes_one_keyword_of_the_transformer_or_part_of_the_latents(
    transformer, conditions
):
    assert {*KEYWORDS, *IN_LATENTS} == Conditions.__dataclass_fields__.keys()
    assert len(set(KEYWORDS.values())) == len(KEYWORDS)
    masked = Conditions(text=conditions.text, text_mask=conditions.text_mask)
    keywords = masked.keywords(transformer)
    assert keywords == {
        "encoder_hidden_states": conditions.text,
        "encoder_attention_mask": conditions.text_mask,
    }
    assert Told()(**keywords) == (conditions.text, conditions.text_mask)
    assert Conditions(text=conditions.text).keywords(Told()).keys() == {"encoder_hidden_states"}


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("name", ["image", "pictures"])
def test_a_condition_the_transformer_does_not_take_is_refused(conditions, name):
    given = Conditions(text=conditions.text, **{name: torch.ones(3, 1)})
    words = f"'{name}' is given, but Told takes no {KEYWORDS[name]}"
    with pytest.raises(UserError, match=words):
        given.keywords(Told())
    with pytest.raises(UserError, match=words):
        given.keywords(torch.compile(Told()))


def test_rows_are_chosen_repeated_and_joined_in_every_field(conditions):
    chosen = conditions.rows(slice(None, None, 2))
    assert len(conditions) == 3 and len(chosen) == 2
    whole = Conditions.cat([conditions.rows(slice(0, 1)), conditions.rows(slice(1, None))])
    twice = conditions.repeat(2)
    for name, value in conditions.given().items():
        assert torch.equal(getattr(chosen, name), value[[0, 2]])
        assert torch.equal(getattr(whole, name), value)
        assert torch.equal(getattr(twice, name), value[[0, 0, 1, 1, 2, 2]])
    assert whole.given().keys() == conditions.given().keys()


def test_moved_to_half_precision_masks_stay_masks(conditions):
    moved = conditions.to(dtype=torch.bfloat16)
    assert moved.text.dtype == moved.known.dtype == torch.bfloat16
    assert moved.text_mask.dtype == torch.bool
    assert conditions.text.dtype == torch.float32


def test_another_text_makes_other_conditions_and_the_same_makes_none(conditions):
    assert conditions.with_text(conditions.text) is conditions
    other = conditions.with_text(-conditions.text)
    assert torch.equal(other.text, -conditions.text) and other.known is conditions.known


def test_without_visuals_only_text_stays_and_input_channels_are_zero(conditions):
    joined = replace(conditions, channels=torch.ones(3, 4, 1, 4, 4))
    bare = joined.without_visuals()
    assert bare.known is None and bare.text is conditions.text
    assert torch.equal(bare.channels, torch.zeros(3, 4, 1, 4, 4))


def test_only_channels_make_the_input_wider():
    assert input_channels(16, "none") == input_channels(16, "tokens") == (16,)
    assert input_channels(16, "channels") is None
