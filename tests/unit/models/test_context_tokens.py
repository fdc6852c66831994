"""Tokens beside the text: who sees them, how they begin, and the model without them."""

from copy import deepcopy

import pytest
import torch

from t2v.errors import UserError
from t2v.models.context_tokens import (
    begin_memory,
    context_tokens,
    take_tokens,
    without_tokens,
)
from t2v.models.kv_cache import KVCache
from t2v.models.transformer import T2VTransformer3DModel


def answer(model, mask=None, **options):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 2, 4, 4, generator=generator)
    text = torch.randn(2, 5, 32, generator=generator)
    text[:, 3:] = 0
    with torch.no_grad():
        return model(x, torch.tensor([300.0, 500.0]), text, mask, **options).sample


@pytest.fixture
def tuned(transformer, wake):
    """A model with both kinds of tokens, awake."""
    take_tokens(transformer, 3, 2)
    for tokens in context_tokens(transformer).values():
        tokens.data.add_(torch.randn(tokens.shape))
    return transformer


def test_without_its_tokens_a_model_answers_as_before_to_the_bit(transformer, tuned):
    plain = T2VTransformer3DModel(**{**tuned.config, "memory_tokens": 0, "prefix_tokens": 0})
    plain.load_state_dict(tuned.state_dict(), strict=False)
    plain.eval()
    mask = torch.ones(2, 5, dtype=torch.bool)
    for given in (None, mask):
        assert (answer(tuned, given) - answer(plain, given)).abs().max() > 1e-2
        with without_tokens(tuned):
            assert torch.equal(answer(tuned, given), answer(plain, given))
    assert len(context_tokens(tuned)) == 3  # a memory in each of two blocks, and a prefix


def test_all_see_the_tokens_also_behind_a_mask_and_from_a_cache(tuned):
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    torch.testing.assert_close(answer(tuned, mask)[0], answer(tuned)[0], atol=1e-5, rtol=1e-4)
    assert not torch.equal(answer(tuned, mask)[1], answer(tuned)[1])
    cache = KVCache()
    for _ in range(2):
        kept = answer(tuned, attention_kwargs={"kv_cache": cache})
        assert torch.equal(kept, answer(tuned))


def test_a_memory_begins_as_what_is_seen_past_a_prompts_end(transformer):
    plain = answer(transformer)
    generator = torch.Generator().manual_seed(0)
    begun, random = deepcopy(transformer), deepcopy(transformer)
    for model in (begun, random):
        take_tokens(model, 4, 0)
    begin_memory(begun, generator)
    for tokens in context_tokens(random).values():
        tokens.data = 10 * torch.randn(tokens.shape, generator=generator)
    moved = [(answer(model) - plain).norm() / plain.norm() for model in (begun, random)]
    assert moved[0] < 0.5 * moved[1]
    begun.blocks[0].attn2.memory.tokens.data[1:] = begun.blocks[0].attn2.memory.tokens[0]
    assert not torch.equal(*begun.blocks[1].attn2.memory.tokens[:2])  # or they would learn alike


def test_tokens_are_saved_with_the_model_and_another_number_is_refused(tuned, tmp_path):
    tuned.save_pretrained(tmp_path)
    loaded = T2VTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(answer(loaded), answer(tuned))
    with pytest.raises(UserError, match="4 memory tokens: this model has learned 3 already"):
        take_tokens(loaded, 4, 0)


def test_a_new_model_draws_its_tokens_from_its_generator(tuned):
    drawn = []
    for seed in (3, 3, 4):
        tuned.initialize(torch.Generator().manual_seed(seed))
        drawn.append(torch.cat([x.flatten() for x in context_tokens(tuned).values()]).clone())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
