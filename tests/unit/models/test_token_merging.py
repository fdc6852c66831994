"""Token merging: fewer tokens inside, all of them outside, in our transformer and in others."""

from __future__ import annotations

import inspect
import logging
import statistics
import time
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    WanTransformer3DModel,
)
from diffusers.hooks import FirstBlockCacheConfig
from diffusers.models.attention_dispatch import AttentionBackendName
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.token_matching import match_tokens, merge_tokens, unmerge_tokens
from t2v.models.token_merging import (
    TOKENS,
    TokenMergingConfig,
    apply_token_merging,
    remove_token_merging,
)
from t2v.models.transformer import T2VTransformer3DModel

WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "ffn_dim": 32,
    "num_layers": 4,
}
COG = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 16,
    "num_layers": 4,
    "sample_width": 6,
    "sample_height": 8,
    "sample_frames": 9,
    "max_text_seq_length": 7,
    "use_rotary_positional_embeddings": True,
}
LTX = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "cross_attention_dim": 24,
    "num_layers": 4,
    "caption_channels": 16,
}


def noise(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def like_wan(batch: int = 2) -> dict[str, Any]:
    """72 tokens of 3 frames."""
    return {
        "hidden_states": noise(batch, 4, 3, 8, 12),
        "timestep": torch.linspace(20, 900, batch),
        "encoder_hidden_states": noise(batch, 7, 16),
    }


def like_wan_22(batch: int = 2) -> dict[str, Any]:
    """The first frame, 24 tokens, is known: at time 0."""
    times = torch.full((batch, 72), 600.0)
    times[:, :24] = 0
    return {**like_wan(batch), "timestep": times}


def like_ltx(batch: int = 2) -> dict[str, Any]:
    return {
        "hidden_states": noise(batch, 72, 4),
        "timestep": torch.linspace(20, 900, batch),
        "encoder_hidden_states": noise(batch, 7, 16),
        "encoder_attention_mask": torch.ones(batch, 7),
        "num_frames": 3,
        "height": 4,
        "width": 6,
    }


def like_cogvideox(batch: int = 2) -> dict[str, Any]:
    angles = noise(36, 8).repeat_interleave(2, dim=1)
    return {
        "hidden_states": noise(batch, 3, 4, 8, 6),
        "timestep": torch.linspace(20, 900, batch),
        "encoder_hidden_states": noise(batch, 7, 16),
        "image_rotary_emb": (angles.cos(), angles.sin()),
    }


FAMILIES = {
    "ours": (T2VTransformer3DModel, WAN, like_wan),
    "ours, known frame": (T2VTransformer3DModel, WAN, like_wan_22),
    "Wan": (WanTransformer3DModel, WAN, like_wan),
    "Wan 2.2, known frame": (WanTransformer3DModel, WAN, like_wan_22),
    "LTX": (LTXVideoTransformer3DModel, LTX, like_ltx),
    "CogVideoX": (CogVideoXTransformer3DModel, COG, like_cogvideox),
}
of_each_family = pytest.mark.parametrize("family", FAMILIES)


def built(family: str, wake: Any) -> tuple[Any, dict[str, Any]]:
    kind, config, inputs = FAMILIES[family]
    return wake(kind(**config)).eval(), inputs()


def predict(model: nn.Module, given: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return model(**given, return_dict=False)[0]


def relative(x: Tensor, reference: Tensor) -> float:
    return ((x - reference).norm() / reference.norm()).item()


def test_unmerging_gives_each_token_the_mean_of_those_that_merged():
    x = noise(2, 12, 5)
    merge = match_tokens(x, 0.5, stride=2)
    assert merge.kept.shape == (2, 6) and merge.sizes.sum(1).tolist() == [12, 12]
    back = unmerge_tokens(merge_tokens(x, merge), merge)
    for sample, into in enumerate(merge.into):
        for token, group in enumerate(into):
            torch.testing.assert_close(
                back[sample, token], x[sample, into == group].mean(0), atol=1e-6, rtol=0
            )


def test_tokens_that_are_alike_merge_and_others_do_not():
    x = noise(1, 16, 32)
    x[:, [4, 8, 9]] = x[:, [7, 7, 11]] * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
    into = match_tokens(x, 3 / 16, stride=4).into[0]
    assert into[4] == into[8] == into[7] and into[9] == into[11]
    assert len(into.unique()) == 13


def test_comparing_in_parts_gives_the_same_matching(monkeypatch):
    x = noise(2, 40, 8)
    whole = match_tokens(x, 0.4)
    monkeypatch.setattr("t2v.models.token_matching.ROWS", 3)
    for part, each in zip(match_tokens(x, 0.4), whole, strict=True):
        assert torch.equal(part, each)


@of_each_family
def test_what_does_not_merge_gives_the_same_bits(family, wake):
    model, given = built(family, wake)
    plain = predict(model, given)
    apply_token_merging(model, TokenMergingConfig(ratio=0))
    assert torch.equal(predict(model, given), plain)
    apply_token_merging(model, TokenMergingConfig(ratio=0.5))
    merged = predict(model, given)
    assert 0 < relative(merged, plain) < 1 and merged.shape == plain.shape
    remove_token_merging(model)
    assert torch.equal(predict(model, given), plain)


@of_each_family
@pytest.mark.parametrize("weigh", [True, False])
def test_twins_merge_without_a_loss_if_sizes_are_weighed(family, weigh, wake):
    """Every token comes twice, at one place; half of the pairs merge, rotary positions and all."""
    model, given = built(family, wake)
    block = (model.blocks if hasattr(model, "blocks") else model.transformer_blocks)[1]
    block.register_forward_pre_hook(_doubled, with_kwargs=True)
    block.register_forward_hook(lambda _, __, output: _halved(output))
    plain = predict(model, given)
    config = TokenMergingConfig(ratio=0.25, stride=2, layers=(1,), weigh_sizes=weigh)
    apply_token_merging(model, config)
    error = relative(predict(model, given), plain)
    assert error < 1e-5 if weigh else error > 1e-4


def _halved(output: Any) -> Any:
    first, *others = output if isinstance(output, tuple) else (output,)
    return (first[:, ::2], *others) if others else first[:, ::2]


def _doubled(block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments of a block with each token twice in a row."""
    tokens = TOKENS[type(block).__name__]
    given = dict(zip(list(inspect.signature(block.forward).parameters), args, strict=False))
    given |= kwargs
    count = given["hidden_states"].shape[1]
    given["hidden_states"] = given["hidden_states"].repeat_interleave(2, dim=1)
    temb, rotary = given["temb"], given.get(tokens.rotary)
    if temb.ndim == tokens.temb_axes and temb.shape[1] == count:
        given["temb"] = temb.repeat_interleave(2, dim=1)
    if isinstance(rotary, tuple):
        given[tokens.rotary] = tuple(x.repeat_interleave(2, dim=tokens.axis) for x in rotary)
    elif rotary is not None:
        given[tokens.rotary] = rotary.repeat_interleave(2, dim=tokens.axis)
    return (), given


def test_tokens_of_other_times_stay_apart(wake):
    """The known frame looks like the next one, and merges within itself all the same."""
    x = noise(1, 72, 8)
    x[:, 24:48] = x[:, :24]
    times = torch.zeros(1, 72)
    times[:, 24:] = 600
    merge = match_tokens(x, 0.6, stride=4, times=times)
    of_known, of_others = merge.into[0, :24], merge.into[0, 24:]
    assert not set(of_known.tolist()) & set(of_others.tolist())
    together = match_tokens(x, 0.6, stride=4)
    assert set(together.into[0, :24].tolist()) & set(together.into[0, 24:].tolist())


def test_a_sample_is_answered_alike_alone_and_in_a_batch(wake):
    model, given = built("ours", wake)
    apply_token_merging(model, TokenMergingConfig(ratio=0.5))
    both = predict(model, given)
    for one in range(2):
        alone = predict(model, {name: x[one : one + 1] for name, x in given.items()})
        torch.testing.assert_close(alone[0], both[one], atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_weight_with_and_without_checkpoints(wake):
    model, given = built("ours", wake)
    apply_token_merging(model, TokenMergingConfig(ratio=0.5, layers=(1, 2, 3), match_every=2))
    found = []
    for checkpoints in (False, True):
        if checkpoints:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(**given, return_dict=False)[0].square().mean().backward()
        found.append({name: each.grad.clone() for name, each in model.named_parameters()})
    for name, grad in found[0].items():
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(found[1][name], grad)


def test_half_precision_stays_half(wake):
    model, given = built("ours", wake)
    apply_token_merging(model.bfloat16(), TokenMergingConfig(ratio=0.5))
    half = {name: x.bfloat16() for name, x in given.items()}
    assert predict(model, half).dtype == torch.bfloat16


def test_it_goes_with_the_cache_of_the_first_block(wake):
    model, given = built("ours", wake)
    apply_token_merging(model, TokenMergingConfig(ratio=0.5))
    merged = predict(model, given)
    model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with model.cache_context("cond"):
        assert torch.equal(predict(model, given), merged)
        assert relative(predict(model, given), merged) < 1e-5  # from the cache
    remove_token_merging(model)
    model.disable_cache()
    assert relative(predict(model, given), merged) > 1e-3


def test_blocks_with_one_matching_do_as_if_merged_at_once(wake, monkeypatch):
    """Merging again with the same matching undoes nothing: the same answer up to rounding."""
    model, given = built("ours", wake)
    apply_token_merging(model, TokenMergingConfig(ratio=0.5, layers=(1, 2)))
    counts: list[int] = []
    for layer in (1, 2):
        model.blocks[layer].attn1.register_forward_pre_hook(
            lambda _, given: counts.append(given[0].shape[1])
        )
    one = predict(model, given)
    assert counts == [36, 36]
    remove_token_merging(model)
    apply_token_merging(model, TokenMergingConfig(ratio=0.5, layers=(1, 2), match_every=1))
    assert relative(predict(model, given), one) > 1e-4


def test_what_it_does_not_know_is_refused(wake):
    hunyuan = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    with pytest.raises(UserError, match="CogVideoXBlock"):
        apply_token_merging(hunyuan, TokenMergingConfig())
    by_place = T2VTransformer3DModel(**WAN, attention="factorized")
    with pytest.raises(UserError, match="attention=full"):
        apply_token_merging(by_place, TokenMergingConfig())
    model, given = built("ours", wake)
    with pytest.raises(UserError, match="blocks 0 to 3"):
        apply_token_merging(model, TokenMergingConfig(layers=(1, 4)))
    apply_token_merging(model, TokenMergingConfig())
    with pytest.raises(UserError, match="already"):
        apply_token_merging(model, TokenMergingConfig())
    for block in model.blocks[1:]:
        block.attn1.processor._attention_backend = AttentionBackendName.FLEX
    with pytest.raises(UserError, match='"flex" does not weigh'):
        predict(model, given)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ratio": 0.8},
        {"ratio": -0.1},
        {"stride": 1},
        {"match_every": 0},
        {"ratio": 0.6, "stride": 2},
    ],
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match="ive "):
        TokenMergingConfig(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [T2VTransformer3DModel, WanTransformer3DModel])
def test_a_pass_over_2880_tokens_takes_three_quarters_of_the_time(kind, wake):
    """CPU seconds of one thread, in interleaved pairs, so that other work does not count."""
    wide = {**WAN, "num_attention_heads": 6, "attention_head_dim": 64, "text_dim": 512}
    model = wake(kind(**{**wide, "ffn_dim": 1536, "num_layers": 12})).eval()
    given = {
        "hidden_states": noise(1, 4, 5, 48, 48),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": noise(1, 64, 512),
    }

    def seconds() -> float:
        began = time.thread_time()
        predict(model, given)
        return time.thread_time() - began

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds()
    ratios = []
    for _ in range(5):
        whole = seconds()
        apply_token_merging(model, TokenMergingConfig(ratio=0.3))
        ratios.append(whole / seconds())
        remove_token_merging(model)
    torch.set_num_threads(threads)
    logging.getLogger(__name__).info("%s: %s times as fast", kind.__name__, sorted(ratios))
    assert statistics.median(ratios) >= 1.3, ratios
