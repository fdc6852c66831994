"""Learned tokens in the middle blocks: what they are, what they begin as, and what they refuse."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig
from einops import repeat
from torch import Tensor, nn

from t2v.bench.stopwatch import count_flop
from t2v.config.models import TransformerConfig
from t2v.errors import UserError
from t2v.models.routing import Run
from t2v.models.token_learner import TokenLearner, add_learner
from t2v.models.token_merging import TokenMergingConfig, apply_token_merging
from t2v.models.transformer import T2VTransformer3DModel

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "ffn_dim": 32,
    "num_layers": 4,
}


def wake(model: nn.Module, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return model.eval()


def build(**changes: Any) -> T2VTransformer3DModel:
    return wake(T2VTransformer3DModel(**{**SMALL, "learned_tokens": 3, **changes}))


def inputs(grid: tuple[int, int, int] = (3, 4, 6), batch: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        "hidden_states": torch.randn(batch, 4, *grid, generator=generator),
        "timestep": torch.linspace(20, 900, batch),
        "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
    }


@torch.no_grad()
def predict(model: nn.Module, **given: Any) -> Tensor:
    return model(**{**inputs(), **given}).sample


def without(model: T2VTransformer3DModel) -> T2VTransformer3DModel:
    """The same weights, all tokens in all blocks."""
    plain = T2VTransformer3DModel(**SMALL)
    plain.load_state_dict(model.state_dict(), strict=False)
    return plain.eval()


def test_without_learned_tokens_a_model_has_nothing_new():
    plain = T2VTransformer3DModel(**SMALL)
    assert not any("token_learner" in name for name in plain.state_dict())
    assert {*build().state_dict()} - {*plain.state_dict()} == {
        f"token_learner.{name}"
        for name in (
            *("to_learned.weight", "to_learned.bias", "mix.weight"),
            *("to_all.weight", "to_all.bias"),
        )
    }


def test_only_blocks_between_the_whole_ones_compute_the_learned_tokens():
    model, counts = build(num_layers=5, whole_blocks=(2, 1)), list[int]()
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, given: counts.append(given[0].shape[1]))
    predict(model)
    assert counts == [18, 18, 3, 3, 18]


def test_with_weights_of_zero_each_token_gets_what_the_mean_of_all_gains():
    dim, learner = 8, wake(TokenLearner(8, 3, (1, 1), 4, 1e-6))
    for layer in (learner.to_learned, learner.to_all):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.eye_(learner.mix.weight)
    x, rotations = torch.randn(2, 2, 10, dim, generator=torch.Generator().manual_seed(1))
    run = _sines(gives := [])
    got = learner.through(run, 4, x, torch.zeros(2, 1, 6, dim), [rotations.unsqueeze(2)] * 4)
    given, mean = gives[1], x.sin().mean(1, keepdim=True)
    torch.testing.assert_close(given[0], repeat(mean, "b 1 d -> b 3 d"))
    torch.testing.assert_close(given[1], repeat(rotations.mean(1), "b d -> b 3 1 d"))
    torch.testing.assert_close(got, (x.sin() + mean.sin().sin() - mean).sin())


def _sines(gives: list[tuple[Tensor, Tensor]]) -> Run:
    """Blocks that give the sine of what they are given."""

    def run(first: int, last: int, x: Tensor, modulation: Tensor, views: list[Any]) -> Tensor:
        gives.append((x, views[first]))
        for _ in range(first, last):
            x = x.sin()
        return x

    return run


def test_it_begins_as_the_mean_of_what_different_learned_tokens_gain():
    model = T2VTransformer3DModel(**SMALL, learned_tokens=3)
    model.initialize(torch.Generator().manual_seed(0))
    learner = model.token_learner
    assert torch.equal(learner.mix.weight, torch.eye(3)) and not learner.to_all.weight.any()
    assert len(learner.to_learned.weight.unique(dim=0)) == 3  # alike they would learn alike


def test_every_weight_of_it_learns_and_every_token_matters_to_every_other():
    model, given = build(), inputs()
    given["hidden_states"].requires_grad_(True)
    model(**given).sample[0, :, 0, :2, :2].square().sum().backward()
    for name, weight in model.token_learner.named_parameters():
        assert weight.grad is not None and weight.grad.abs().min() > 0, name
    grad = given["hidden_states"].grad
    assert grad is not None and grad[0].abs().amin() > 0 and not grad[1].any()


def test_the_order_of_tokens_says_nothing_but_by_their_places():
    learner = wake(TokenLearner(8, 3, (1, 1), 4, 1e-6), seed=2)
    generator = torch.Generator().manual_seed(1)
    x, rotations = torch.randn(2, 2, 10, 8, generator=generator)
    modulation = torch.randn(2, 10, 6, 8, generator=generator)

    def through(order: Tensor) -> Tensor:
        views = [rotations[:, order].unsqueeze(2)] * 4
        return learner.through(_sines([]), 4, x[:, order], modulation[:, order], views)

    order = torch.randperm(10, generator=generator)
    torch.testing.assert_close(through(order), through(torch.arange(10))[:, order])


def test_one_time_of_all_tokens_is_the_time():
    model, given = build(), inputs()
    each = repeat(given["timestep"], "b -> b n", n=18)
    torch.testing.assert_close(predict(model, timestep=each), predict(model))


def test_batch_equals_one_by_one_in_any_size():
    model = build()
    for grid in ((1, 2, 2), (5, 6, 2)):
        given = inputs(grid)
        whole = predict(model, **given)
        for i in range(2):
            one = {name: value[i : i + 1] for name, value in given.items()}
            torch.testing.assert_close(predict(model, **one), whole[i : i + 1])


def test_checkpointing_keeps_the_gradients():
    def gradients(*, checkpoints: bool) -> list[Tensor | None]:
        model = build().train()
        if checkpoints:
            model.enable_gradient_checkpointing()
        model(**inputs()).sample.square().mean().backward()
        return [parameter.grad for parameter in model.parameters()]

    for plain, again in zip(gradients(checkpoints=False), gradients(checkpoints=True), strict=True):
        torch.testing.assert_close(plain, again)


def test_saved_and_loaded_it_answers_the_same(tmp_path):
    model = build(whole_blocks=(1, 2))
    model.save_pretrained(tmp_path)
    loaded = T2VTransformer3DModel.from_pretrained(tmp_path).eval()
    assert loaded.config.learned_tokens == 3
    assert torch.equal(predict(loaded), predict(model))


def test_a_cache_that_leaves_the_middle_out_leaves_its_gain_as_it_was():
    model, given = build(num_layers=5, whole_blocks=(2, 1)), inputs()
    first = predict(model, **given)
    model.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    with model.cache_context("cond"):
        torch.testing.assert_close(predict(model, **given), first)
        torch.testing.assert_close(predict(model, **given), first)


def test_the_embedded_size_takes_fewer_flop():
    def flop(**changes: Any) -> int:
        config = TransformerConfig(**changes)
        with torch.device("meta"):
            model = T2VTransformer3DModel(**asdict(config))
        shape = (1, 16, 9, 24, 24)
        given = [torch.zeros(*each, device="meta") for each in (shape, (1,), (1, 8, 192))]
        return count_flop(lambda: model(*given))

    assert flop(learned_tokens=8) < 0.65 * flop()


def test_a_trained_model_begins_with_them_and_is_the_same_outside_the_middle():
    plain = without(build())
    model = without(build())
    with pytest.raises(UserError, match="Give method=full"):
        add_learner(model, 3, (2, 1), None)
    add_learner(model, 3, (2, 1), torch.Generator().manual_seed(0))
    other = without(build())
    add_learner(other, 3, (2, 1), torch.Generator().manual_seed(0))
    assert torch.equal(predict(model), predict(other))
    assert not torch.allclose(predict(model), predict(plain))
    assert torch.equal(model.blocks[2].attn1.to_q.weight, plain.blocks[2].attn1.to_q.weight)
    with pytest.raises(UserError, match="has 3 already"):
        add_learner(model, 5, (2, 1), torch.Generator())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learned_tokens": -1}, "learned_tokens=-1"),
        ({"whole_blocks": (2, 2)}, r"whole_blocks=\[2, 2\] of 4 blocks"),
        ({"whole_blocks": (-1, 2)}, r"whole_blocks=\[-1, 2\]"),
        ({"attention": ["full", "full", "window:1x2x2"]}, "no places to attend by"),
    ],
)
def test_what_does_not_fit_is_one_message(changes, words):
    with pytest.raises(UserError, match=words):
        build(**changes)


def test_layouts_of_whole_blocks_are_free_and_merging_is_refused():
    model = build(attention=["window:1x2x2", "full", "full", "roll"], whole_blocks=(1, 1))
    assert predict(model).shape == (2, 4, 3, 4, 6)
    with pytest.raises(UserError, match="no places to attend by"):
        model.set_attention("roll")
    with pytest.raises(UserError, match="learned tokens"):
        apply_token_merging(model, TokenMergingConfig())
    assert build()._cp_plan is None
