"""Features of the denoiser, maps of its attention, and the heads that find things by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from t2v.config.features import ProbeConfig, WordsConfig
from t2v.errors import UserError
from t2v.evaluation.probe import Probed, fit_head, in_patches, overlap, overlaps, pixels_of_patch
from t2v.evaluation.word_report import lit
from t2v.evaluation.words import place_of, seen
from t2v.models.taps import block_outputs, looks_at_text
from t2v.pipelines.features import latents_of, tokens_of

PROMPT = "a red ball bounces"


@pytest.fixture
def film() -> torch.Tensor:
    """9 frames of 32x48."""
    return torch.rand(9, 32, 48, 3, generator=torch.Generator().manual_seed(3))


def denoised(pipe, **changes):
    draws = torch.Generator().manual_seed(0)
    return pipe(PROMPT, generator=draws, num_inference_steps=2, output_type="latent").frames


def test_features_lie_on_the_grid_of_the_tokens(pipe, film):
    x = pipe.features(film, layer=1, time=0.4, prompt=PROMPT)
    _, a, p, q = (1, *pipe.transformer.config.patch_size)
    latents = latents_of(pipe, film)
    grid = [size // step for size, step in zip(latents.shape[2:], (a, p, q), strict=True)]
    dim = pipe.transformer.config.num_attention_heads * pipe.transformer.config.attention_head_dim
    assert x.shape == (1, dim, *grid)


def test_features_are_what_the_next_block_is_given(pipe, film):
    kept: list[torch.Tensor] = []
    block = pipe.transformer.blocks[1]
    handle = block.register_forward_pre_hook(lambda _, given: kept.append(given[0].clone()))
    x = pipe.features(film, layer=0, time=0.4, prompt=PROMPT)
    handle.remove()
    assert torch.equal(rearrange(x, "b d t h w -> b (t h w) d"), kept[0])


def test_several_layers_stand_one_after_the_other(pipe, film):
    both = pipe.features(film, layer=[0, 1], time=0.4)
    apart = [pipe.features(film, layer=each, time=0.4) for each in (0, 1)]
    assert torch.equal(both, torch.cat(apart, dim=1))


def test_prompt_time_and_noise_matter_and_uint8_does_not(pipe, film):
    plain = pipe.features(film, 1, 0.4, PROMPT)
    assert torch.equal(plain, pipe.features(film.numpy(), 1, 0.4, PROMPT))
    assert not torch.equal(plain, pipe.features(film, 1, 0.4, "a blue cube"))
    assert not torch.equal(plain, pipe.features(film, 1, 0.5, PROMPT))
    other = torch.Generator().manual_seed(1)
    assert not torch.equal(plain, pipe.features(film, 1, 0.4, PROMPT, other))
    at_zero = [
        pipe.features(film, 1, 0.0, generator=torch.Generator().manual_seed(s)) for s in (1, 2)
    ]
    assert torch.equal(*at_zero)  # no noise is left
    whole = (film * 255).round().to(torch.uint8)
    torch.testing.assert_close(
        pipe.features(whole, 1, 0.4), pipe.features(whole.float() / 255, 1, 0.4)
    )


def test_a_video_that_is_watched_has_the_same_bits(pipe):
    plain = denoised(pipe)
    layers = range(len(pipe.transformer.blocks))
    with (
        block_outputs(pipe.transformer, layers) as states,
        looks_at_text(pipe.transformer, layers) as looks,
    ):
        watched = denoised(pipe)
    assert torch.equal(plain, watched) and len(states) == len(layers) and looks
    passes = len(looks)
    assert torch.equal(plain, denoised(pipe)) and len(looks) == passes  # the taps are gone


def test_looks_are_the_weights_that_attention_uses(pipe, film):
    """Attention over values that are unit vectors gives its weights."""
    attention = pipe.transformer.blocks[0].attn2
    given: list[tuple] = []
    handle = attention.register_forward_pre_hook(lambda _, args: given.append(args))
    with looks_at_text(pipe.transformer, [0]) as looks:
        pipe.features(film, 0, 0.4, PROMPT)
    handle.remove()
    (weights,), (x, text, *_) = looks, given[0]
    with torch.no_grad():
        query, key, _ = (rearrange(x, "b n k d -> b k n d") for x in attention.project(x, text))
    count = text.shape[1]
    units = torch.eye(count).expand(1, query.shape[1], -1, -1)
    answer = F.scaled_dot_product_attention(query, key, units)
    torch.testing.assert_close(weights, answer.mean(1))


def test_maps_of_words_have_a_mean_of_one(pipe, film):
    maps = pipe.attention_maps(film, ["ball", "red"], PROMPT, layers=[1])
    assert maps.shape == (2, *pipe.features(film, 0, 0.1).shape[2:])
    torch.testing.assert_close(maps.mean((1, 2, 3)), torch.ones(2))
    assert not torch.equal(maps[0], maps[1])


def test_tokens_of_a_word_are_those_of_the_whole_word(pipe):
    ids = pipe.tokenizer("a red ball is a ball").input_ids
    (ball, again), (red,) = (
        tokens_of(pipe.tokenizer, "a red ball is a ball", word) for word in ("ball", "Red")
    )
    assert ids[ball] == ids[again] and ball != again and red < ball
    with pytest.raises(UserError, match="not in the prompt"):
        tokens_of(pipe.tokenizer, "a red ball", "bal")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"layer": 9}, "blocks 0 to"),
        ({"layer": []}, "blocks 0 to"),
        ({"time": 1.5}, "from 0"),
        ({"video": torch.zeros(9, 3, 32, 48)}, "t h w c"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(pipe, film, given, says):
    with pytest.raises(UserError, match=says):
        pipe.features(**{"video": film, "layer": 0, "time": 0.5, **given})


def test_a_transformer_of_another_family_is_refused(wan):
    with (
        pytest.raises(UserError, match="WanTransformer3DModel has no taps"),
        block_outputs(wan.transformer, [0]),
    ):
        pass


def test_a_head_finds_what_is_linear_in_features_and_nothing_in_noise():
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(12, 20, 6, generator=draws)
    things = x @ torch.randn(6, 8, generator=draws) > 1
    noise = torch.randn(x.shape, generator=draws)
    whole = Probed({"told": x, "noise": noise}, things)
    found = overlaps(whole.take(slice(8)), whole.take(slice(8, None)))
    assert found["told"].mean() > 0.6 > 0.4 > found["noise"].mean()
    assert found["everything (chance)"].mean() == pytest.approx(
        things[8:].float().mean((1, 2)).mean().item(), abs=1e-6
    )


def test_a_head_is_least_squares():
    draws = torch.Generator().manual_seed(0)
    x, w = torch.randn(4, 50, 3, generator=draws), torch.randn(3, 2, generator=draws)
    torch.testing.assert_close(fit_head(x, x @ w + 5)(x).float(), x @ w + 5, atol=0.02, rtol=0)


def test_overlap_is_intersection_over_union():
    found = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]).bool()
    things = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]).bool()
    third, neither, whole = overlap(found, things).tolist()
    assert third == pytest.approx(1 / 3) and np.isnan(neither) and whole == 1


def test_masks_are_cut_as_tokens_are(pipe, film):
    patch = pixels_of_patch(pipe)
    tokens = pipe.features(film, 0, 0.1).shape[2:].numel()
    mask = torch.zeros(9, 32, 48, dtype=torch.bool)
    mask[0, : patch[1], : patch[2]] = True  # the first token: of the first frame alone
    cut = in_patches(mask, patch)
    assert len(cut) == tokens and cut[0].all() and not cut[1:].any()


def test_a_lit_film_is_dark_where_nothing_looks():
    frames = np.full((9, 32, 48, 3), 200, np.uint8)
    looks = torch.zeros(3, 4, 6)
    looks[1, 0, 0] = 5.0  # the second latent frame: frames 1 to 4
    shown = lit(frames, looks, 4)
    assert shown[1:5, 0, 0].min() > 190 and shown[[0, 5, 8]].max() <= 41
    assert shown[2, 31, 47].max() <= 41 and shown.dtype == np.uint8
    assert lit(frames, looks, 4, highest=50.0).max() < 70  # beside a word that moves more
    assert seen(frames, 16, 24).shape == (9, 16, 24, 3)
    assert place_of(Path("x/a.mp4"), "big ball") == Path("x/a-big-ball.mp4")


def test_settings_out_of_range_are_refused():
    with pytest.raises(UserError, match="time=2"):
        ProbeConfig(data="a", test="b", time=2.0)
    with pytest.raises(UserError, match="times=-1"):
        WordsConfig(video="a.mp4", words=("ball",), times=(-1.0,))
    with pytest.raises(UserError, match="name at least one"):
        WordsConfig(video="a.mp4", times=())
    with pytest.raises(UserError, match="chooses among maps of attention"):
        WordsConfig(video="a.mp4", layers=(1,))
