"""Tokens that training steps leave out: which ones, and that nothing of them is seen."""

from dataclasses import replace

import pytest
import torch
from torch.func import functional_call

from t2v.config.finetune import FinetuneConfig
from t2v.config.load import load_config
from t2v.config.training import MaskingConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.models.routing import Route
from t2v.models.transformer import T2VTransformer3DModel
from t2v.training.tasks.masking import Masking, kept_tokens

SHAPE = (3, 8, 4, 8, 8)  # 4 frames of 4 x 4 tokens
PLACES, FRAMES = 16, 4


def masks(transformer, **settings):
    return Masking(MaskingConfig(**{"whole_blocks": (0, 1)} | settings), 7, 10, transformer)


def nothing_known(count=3):
    return torch.zeros(count, FRAMES, PLACES, dtype=torch.bool)


def test_a_tube_keeps_the_same_places_in_every_frame_and_clips_differ(transformer):
    kept = masks(transformer, ratio=0.75).kept(SHAPE, None, 0, 0)
    assert kept.shape == (3, FRAMES * PLACES // 4)
    assert (kept.diff(dim=1) > 0).all()
    places = (kept % PLACES).reshape(3, FRAMES, PLACES // 4)
    assert (places == places[:, :1]).all()
    assert len({tuple(row) for row in kept.tolist()}) == 3
    free = masks(transformer, ratio=0.75, shape="tokens").kept(SHAPE, None, 0, 0)
    assert free.shape == kept.shape
    assert any(row.count(row[0]) < FRAMES for row in (free % PLACES).tolist())


def test_masks_are_a_function_of_seed_step_and_rank_and_end_with_the_share_of_steps(transformer):
    some = masks(transformer, ratio=0.5, until=0.8)
    assert torch.equal(some.kept(SHAPE, None, 3, 1), some.kept(SHAPE, None, 3, 1))
    others = [some.kept(SHAPE, None, 4, 1), some.kept(SHAPE, None, 3, 0)]
    assert not any(torch.equal(some.kept(SHAPE, None, 3, 1), other) for other in others)
    assert some.kept(SHAPE, None, 7, 0) is not None and some.kept(SHAPE, None, 8, 0) is None
    assert masks(transformer).kept(SHAPE, None, 0, 0) is None


@pytest.mark.parametrize("shape", ["tubes", "tokens"])
def test_known_tokens_are_kept_and_something_unknown_is_too(shape):
    config = MaskingConfig(ratio=0.9, shape=shape)
    for step in range(20):
        generator = keyed_generator(step, "known")
        held = nothing_known()
        held[0, 0] = True  # the first frame
        held[1] = torch.rand(PLACES, generator=generator) < 0.9  # all around a region
        held[1, :, 3] = False
        kept = kept_tokens(held, config, generator)
        seen = torch.zeros(3, FRAMES * PLACES, dtype=torch.bool).scatter(1, kept, True)
        known = held.flatten(1)
        assert (seen | ~known).all()
        assert (seen & ~known).any(1).all()


def test_nothing_of_dropped_tokens_is_seen(transformer):
    masking = masks(transformer, ratio=0.5, form="drop")
    kept = masking.kept(SHAPE, None, 0, 0)
    weight = masking.weight(kept, SHAPE, None)
    assert weight.mean() == 0.5 and set(weight.unique().tolist()) == {0, 1}
    latents = torch.randn(SHAPE).requires_grad_()
    text = torch.randn(3, 5, 32)
    out = transformer(latents, torch.full((3,), 500.0), text, route=masking.route(kept, SHAPE, 0))
    ((out.sample * weight) ** 2).sum().backward()
    assert (latents.grad * (1 - weight)).abs().max() == 0
    assert ((latents.grad * weight).flatten(2).abs().sum(-1) > 0).all()


def test_routed_tokens_are_not_seen_by_the_blocks_they_pass_and_come_back(transformer):
    masking = masks(transformer, ratio=0.5)
    kept = masking.kept(SHAPE, None, 0, 0)
    route, text, time = masking.route(kept, SHAPE, 0), torch.randn(3, 5, 32), torch.full((3,), 5.0)
    assert (route.first, route.last) == (0, 1) and masking.weight(kept, SHAPE, None) is None
    seen = []
    transformer.blocks[0].register_forward_hook(lambda *given: seen.append(given[-1]))
    latents = torch.randn(SHAPE).requires_grad_()
    out = transformer(latents, time, text, route=route).sample
    (grad,) = torch.autograd.grad(seen[0].square().sum(), latents, retain_graph=True)
    left = 1 - replaced_weight(masking, kept)
    assert seen[0].shape[1] == kept.shape[1]
    assert (grad * left).abs().max() == 0 and (grad * (1 - left)).abs().max() > 0
    (grad,) = torch.autograd.grad(out.square().sum(), latents)
    assert ((grad * left).flatten(1).abs().sum(1) > 0).all()


def replaced_weight(masking, kept):
    masking.config = replace(masking.config, form="drop")
    return masking.weight(kept, SHAPE, None)


def test_a_route_that_keeps_all_is_none(transformer):
    everything = torch.arange(FRAMES * PLACES).expand(3, -1)
    given = torch.randn(SHAPE), torch.full((3, FRAMES * PLACES), 300.0), torch.randn(3, 5, 32)
    with torch.no_grad():
        plain = transformer(*given).sample
        routed = transformer(*given, route=Route(everything, 0, 2)).sample
    torch.testing.assert_close(routed, plain, atol=1e-6, rtol=0)


def test_each_kept_token_keeps_its_place_time_and_neighbours(transformer):
    """What the tokens kept of a clip give is what they give in another order of the clips."""
    masking = masks(transformer, ratio=0.5, form="drop")
    kept, order = masking.kept(SHAPE, None, 0, 0), torch.tensor([2, 0, 1])
    latents, text = torch.randn(SHAPE), torch.randn(3, 5, 32)
    time = 1000 * torch.rand(3, FRAMES * PLACES)
    with torch.no_grad():
        one = transformer(latents, time, text, route=masking.route(kept, SHAPE, 0)).sample
        route = masking.route(kept[order], SHAPE, 0)
        other = transformer(latents[order], time[order], text[order], route=route).sample
    torch.testing.assert_close(other, one[order], atol=1e-5, rtol=0)


def test_recomputed_activations_give_the_same_gradients(transformer):
    masking = masks(transformer, ratio=0.5, whole_blocks=(0, 0))
    route = masking.route(masking.kept(SHAPE, None, 0, 0), SHAPE, 0)
    given = torch.randn(SHAPE), torch.full((3,), 300.0), torch.randn(3, 5, 32)
    weights = {name: each.clone() for name, each in transformer.named_parameters()}

    def gradients():
        leaves = {name: each.detach().clone().requires_grad_() for name, each in weights.items()}
        out = functional_call(transformer, leaves, given, {"route": route}).sample
        return torch.autograd.grad(out.square().mean(), list(leaves.values()))

    plain = gradients()
    transformer.enable_gradient_checkpointing()
    for one, other in zip(plain, gradients(), strict=True):
        assert torch.equal(one, other)


def test_words_are_left_out_and_the_end_mark_stays(transformer):
    masking = masks(transformer, words=0.5)
    tokens = torch.tensor([[5, 6, 7, 8, 1], [9, 4, 1, 0, 0], [1, 0, 0, 0, 0]])
    lengths = torch.tensor([5, 3, 1])
    counts = []
    for step in range(8):
        fewer, short = masking.words(tokens, lengths, step, 0)
        for row, count, whole in zip(fewer, short.tolist(), tokens.tolist(), strict=True):
            words = row[:count].tolist()
            assert words[-1] == 1 and fewer.shape[1] == short.max()
            rest = iter(whole)
            assert all(word in rest for word in words)  # in their order
        counts.append(int(short[0]))
    assert 1 < sum(counts) / 8 < 5
    assert masking.words(tokens, lengths, 8, 0)[0] is tokens
    assert masks(transformer).words(tokens, lengths, 0, 0)[0] is tokens


def test_what_cannot_be_masked_is_told():
    for wrong in ({"ratio": 1.0}, {"words": -0.1}, {"until": 2.0}, {"whole_blocks": (-1, 0)}):
        (name,) = wrong
        with pytest.raises(UserError, match=rf"^{name}=[^=]*$"):  # and no other setting
            MaskingConfig(**wrong)
    given = ["data=x", "output=y", "masking.ratio=1"]
    with pytest.raises(UserError, match=r"^masking\.ratio=1"):
        load_config(FinetuneConfig, None, given)
    with pytest.raises(UserError, match="cache_text=false"):
        FinetuneConfig(data="x", output="y", masking=MaskingConfig(words=0.2))
    settings = {"num_attention_heads": 1, "attention_head_dim": 8, "num_layers": 2, "ffn_dim": 8}
    settings |= {"text_dim": 8, "freq_dim": 8, "in_channels": 1, "out_channels": 1}
    factorized = T2VTransformer3DModel(attention="factorized", **settings)
    with pytest.raises(UserError, match="attention=factorized"):
        masks(factorized, ratio=0.5)
    assert masks(factorized).kept(SHAPE, None, 0, 0) is None
    with pytest.raises(UserError, match=r"whole_blocks=\[1, 1\] of 2 blocks"):
        masks(T2VTransformer3DModel(**settings), ratio=0.5, whole_blocks=(1, 1))
