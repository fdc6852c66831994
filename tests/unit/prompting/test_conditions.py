"""Prompts with signs, as the transformer is told them."""

from dataclasses import replace

import pytest
import torch

from t2v.config.prompting import PromptingConfig
from t2v.errors import UserError
from t2v.prompting.compress import distinct
from t2v.prompting.embed import words_of
from t2v.prompting.times import FilmTimes
from t2v.prompting.windows import windows

SIGNS = PromptingConfig(syntax=True)
A, B = "a red ball rolls", "a blue box bounces on grass"
LONG = "a red ball rolls on the grass. " * 4  # 29 tokens, and 12 fit


@pytest.fixture
def film(pipe):
    """Latents of a prompt, of the tiny pipeline."""

    def made(prompt, config=SIGNS, **rest):
        generator = torch.Generator().manual_seed(1)
        options = {"output_type": "latent", "generator": generator, **rest}
        return pipe(prompt, prompting=config, **options).frames

    return made


def test_a_prompt_without_signs_and_a_weight_of_one_have_the_bits_of_the_plain_prompt(film):
    plain = film(A, None, negative_prompt=B)
    assert torch.equal(film(A, negative_prompt=B), plain)
    assert torch.equal(film("a (red:1) ball rolls", negative_prompt=B), plain)
    assert torch.equal(film(f"[0-1s] {A}", negative_prompt=B), plain)
    assert not torch.equal(film("a (red:1.5) ball rolls", negative_prompt=B), plain)
    assert not torch.equal(film(A, negative_prompt=f"({B}:2)"), plain)


def test_the_ends_of_a_blend_are_its_texts(film):
    one, other = film(A, None), film(B, None)
    assert torch.equal(film(f"{A} @0 {B}"), one)
    assert torch.equal(film(f"{A} @1 {B}"), other)
    half = film(f"{A} @0.5 {B}")
    assert not torch.equal(half, one) and not torch.equal(half, other)


def test_parentheses_stay_text_unless_signs_are_asked_for(film):
    plain = film("a (red:2) ball", None)
    assert torch.equal(film("a (red:2) ball", PromptingConfig()), plain)
    assert torch.equal(film(r"a \(red:2\) ball"), plain)


def test_a_weight_scales_the_tokens_of_its_words_alone(pipe):
    def rows(prompt):
        reader = pipe.reader(SIGNS)
        return reader.rows(reader.check(prompt)[0])

    plain, heavy = rows("a red ball"), rows("a (red:2) ball")
    torch.testing.assert_close(heavy[1], 2 * plain[1])
    assert torch.equal(heavy[[0, 2, 3]], plain[[0, 2, 3]])
    assert torch.equal(rows(f"{A} AND {B}"), torch.cat([rows(A), rows(B)]))


@pytest.mark.parametrize("pooled", [False, True])
def test_each_latent_frame_sees_its_own_scene_alone(pipe, film, wake, pooled):
    if pooled:  # which the embedded model has
        config = {**pipe.transformer.config, "pooled_text": True}
        pipe.transformer = wake(type(pipe.transformer).from_config(config))
    twice = film(f"[0-0.5s] {A} [0.5-1s] {A}")
    torch.testing.assert_close(twice, film(A, None), atol=2e-5, rtol=2e-5)
    shown = film(f"[0-0.5s] {A} [0.5-1s] {B}")
    assert not torch.allclose(shown, twice, atol=1e-3)
    # without attention among the frames, those of the first scene are those of the plain prompt
    for block in pipe.transformer.blocks:
        for weight in block.attn1.to_out[0].parameters():
            weight.data.zero_()
    one, other = film(A, None), film(B, None)
    shown = film(f"[0-0.5s] {A} [0.5-1s] {B}")
    torch.testing.assert_close(shown[:, :, :2], one[:, :, :2], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(shown[:, :, 2:], other[:, :, 2:], atol=2e-5, rtol=2e-5)
    assert not torch.allclose(one, other, atol=1e-3)


def test_prompts_of_a_batch_are_as_they_are_alone(film):
    prompts = [f"[0-0.5s] {A} [0.5-1s] {B}", A, f"{LONG} AND {B}"]
    options = replace(SIGNS, long="windows")
    alone = torch.cat([film(each, options) for each in prompts])
    seeds = [torch.Generator().manual_seed(1) for _ in prompts]
    both = film(prompts, options, generator=seeds)
    torch.testing.assert_close(both, alone, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("ways", [{"long": "windows"}, {"long": "compress", "keep": 12}])
def test_a_late_clause_of_a_long_prompt_counts(film, ways):
    config = PromptingConfig(**ways)
    assert not torch.equal(film(LONG + "a blue box.", config), film(LONG + "the sky.", config))
    with pytest.raises(UserError, match="12 fit"):
        film(LONG)
    cut = {"truncate": True, "config": None}
    assert torch.equal(film(LONG + "a blue box.", **cut), film(LONG + "the sky.", **cut))


def test_a_long_text_is_cut_where_a_sentence_ends(tokenizer):
    text = "a red ball rolls on grass. the box bounces, under the snow. " * 2
    parts = windows(tokenizer, text, 8)
    assert [each for _, each in parts][:2] == ["a red ball rolls on grass.", "the box bounces,"]
    assert all(text[start:].startswith(part) for start, part in parts)
    assert " ".join(part for _, part in parts) == text.strip()
    assert windows(tokenizer, A, 9) == [(0, A)]
    for bad, words in (("red " * 200, "16 windows"), ("red," * 20, "the word")):
        with pytest.raises(UserError, match=words):
            windows(tokenizer, bad, 9)


def test_the_tokens_that_are_kept_are_the_least_alike_in_their_order():
    base = torch.eye(4)
    rows = torch.cat([base[:1], base[:1] * 2, base[1:2], base[:1] * 3, base[2:3], base[3:]])
    kept = distinct(rows, 4)
    assert len(kept) == 4 and {int(row.argmax()) for row in kept} == {0, 1, 2, 3}
    assert torch.equal(distinct(rows, 6), rows)


def test_a_scene_is_told_to_the_latent_frames_with_their_middle_in_it(pipe):
    times = pipe.film_times(17, 8)
    assert times.centres == [0.0625, 0.375, 0.875, 1.375, 1.875]
    scenes = pipe.reader(SIGNS).check(f"[0-1s] {A} [1-2s] {B}")
    assert times.scenes(scenes) == [0, 0, 0, 1, 1]
    assert pipe.film_times(1, 8).scenes(scenes) == [0]
    for prompt, words in (
        (f"[0-1s] {A} [1-4s] {B}", "duration=4"),
        (f"[0-1s] {A} [1-1.1s] {B} [1.1-2s] {A}", "no latent frame"),
    ):
        with pytest.raises(UserError, match=words):
            times.scenes(pipe.reader(SIGNS).check(prompt))


def test_what_contradicts_itself_is_refused(pipe, film):
    with pytest.raises(UserError, match="the whole film"):
        film(A, negative_prompt=f"[0-0.5s] {A} [0.5-1s] {B}")
    with pytest.raises(UserError, match="Give one of them"):
        film(A, PromptingConfig(long="windows"), truncate=True)
    embeds = torch.zeros(1, 12, 32)
    with pytest.raises(UserError, match="embeddings are both given"):
        film(A, negative_prompt_embeds=embeds)
    pipe.transformer.t2v_split = type("Split", (), {"sequence": 2, "guidance": 1})()
    with pytest.raises(UserError, match="parallel=guidance"):
        film(f"[0-0.5s] {A} [0.5-1s] {B}")


def test_a_prompt_is_shown_without_its_signs():
    prompt = f"[0-1s] a (red:2) ball [1-2s] {A} AND {B}"
    assert words_of(prompt, SIGNS) == f"a red ball, then {A} and {B}"
    assert words_of("a (b:2)", PromptingConfig()) == "a (b:2)"
    assert FilmTimes(num_frames=1, fps=8, stride=4, latent_frames=1).centres == [0.0625]


@pytest.mark.parametrize("ratio", [0.5])
def test_scenes_go_together_with_merged_tokens(pipe, film, ratio):
    from t2v.models.token_merging import TokenMergingConfig, apply_token_merging

    apply_token_merging(pipe.transformer, TokenMergingConfig(ratio=ratio, layers=(0, 1)))
    shown = film(f"[0-0.5s] {A} [0.5-1s] {B}")
    assert shown.isfinite().all() and not torch.equal(shown, film(A))
