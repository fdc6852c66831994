"""What learns, and models between two models."""

import pytest
import torch
from torch import nn

from t2v.config import FinetuneConfig, LoRAConfig
from t2v.errors import UserError
from t2v.models.transformer import T2VTransformer3DModel
from t2v.training.trainable import (
    add_concepts,
    add_lora,
    choose_trainable,
    interpolated,
    merged,
)


def answer(model):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, model.config.in_channels, 2, 4, 4, generator=generator)
    text = torch.randn(1, 3, model.config.text_dim, generator=generator)
    with torch.no_grad():
        return model(x, torch.tensor([300.0]), text, return_dict=False)[0]


def test_a_fresh_lora_changes_nothing_and_is_the_same_for_the_same_seed(transformer):
    plain = answer(transformer)
    drawn = []
    for seed in (3, 3, 4):
        add_lora(transformer, LoRAConfig(rank=2), seed)
        assert torch.equal(answer(transformer), plain)
        weights = transformer.state_dict()
        drawn.append(torch.cat([x.flatten() for n, x in weights.items() if "lora_A" in n]))
        transformer.unload_lora()
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_merged_copy_answers_as_the_lora_does_and_leaves_it_alone(transformer):
    plain = answer(transformer)
    names = list(transformer.state_dict())
    add_lora(transformer, LoRAConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    tuned = answer(transformer)
    whole, none = merged(transformer, 1.0), merged(transformer, 0.0)
    assert list(whole.state_dict()) == names
    torch.testing.assert_close(answer(whole), tuned, atol=1e-5, rtol=1e-4)
    assert not torch.equal(tuned, plain)
    assert torch.equal(answer(none), plain)
    assert torch.equal(answer(transformer), tuned)


def test_weights_between_two_models_lie_on_their_line():
    base, tuned = nn.Linear(3, 2), nn.Linear(3, 2)
    middle = interpolated(base, tuned, 0.25)
    torch.testing.assert_close(middle.weight, 0.75 * base.weight + 0.25 * tuned.weight)
    assert torch.equal(interpolated(base, tuned, 0.0).weight, base.weight)
    assert torch.equal(interpolated(base, tuned, 1.0).weight, tuned.weight)


@pytest.mark.parametrize("attention", ["full", "factorized"])
def test_what_looks_along_time_learns_and_the_rest_rests(transformer, text_encoder, attention):
    if attention == "factorized":
        transformer = T2VTransformer3DModel(**{**transformer.config, "attention": attention})
    model = nn.ModuleDict({"transformer": transformer, "text_encoder": text_encoder})
    choose_trainable(model, FinetuneConfig(data="x", output="y", method="frozen_spatial"))
    parts = {"full": {"attn1"}, "factorized": {"attn_temporal", "norm_temporal"}}[attention]
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name.split(".")[3] for name in names} == parts
    assert all(name.startswith("transformer.blocks.") for name in names)


def test_only_the_row_of_a_new_word_learns(tokenizer, text_encoder):
    before = text_encoder.get_input_embeddings().weight.detach().clone()
    add_concepts(tokenizer, text_encoder, ["<toy>"], ["red ball"])
    table = text_encoder.get_input_embeddings().weight
    tokens = tokenizer("a <toy> on the grass", return_tensors="pt").input_ids
    assert len(before) in tokens
    text_encoder(input_ids=tokens).last_hidden_state.sum().backward()
    assert table.grad[-1].abs().max() > 0
    assert table.grad[:-1].abs().max() == 0
    torch.optim.AdamW([table], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(table[:-1], before)
    with pytest.raises(UserError, match="take a new word"):
        add_concepts(tokenizer, text_encoder, ["<toy>"])
