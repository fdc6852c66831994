"""Prompts to embeddings."""

import pytest
import torch
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from t2v.errors import UserError
from t2v.io.prompt_words import clean_prompt
from t2v.models.text import count_tokens, encode_prompts, unknown_words


def test_prompts_are_cleaned_as_wan_cleans_them():
    assert clean_prompt(" a  red\n&amp;amp; blue\tball âœ” ") == "a red & blue ball ✔"


@torch.no_grad()
def test_each_row_is_the_plain_encoding_with_zeros_behind(tokenizer, text_encoder):
    prompts = ["a red ball", "snow", "a red ball"]
    embeds = encode_prompts(tokenizer, text_encoder, prompts, 8)
    tokens = tokenizer(prompts, padding="max_length", max_length=8, return_tensors="pt")
    padded = text_encoder(**tokens).last_hidden_state * tokens.attention_mask.unsqueeze(-1)
    torch.testing.assert_close(embeds, padded)
    assert torch.equal(embeds[0], embeds[2])
    assert torch.equal(embeds[:1], encode_prompts(tokenizer, text_encoder, prompts[:1], 8))
    assert not embeds[0, 4:].any() and embeds[0, 3].any()


@torch.no_grad()
def test_an_empty_prompt_without_an_end_mark_is_all_zeros(tokenizer, text_encoder):
    tokenizer.backend_tokenizer.post_processor = None
    assert not encode_prompts(tokenizer, text_encoder, [""], 8).any()


@torch.no_grad()
def test_any_text_encoder_of_transformers_fits(tokenizer):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, eos_token_id=1, bos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    embeds = encode_prompts(tokenizer, CLIPTextModel(config).eval(), ["a red ball"], 8)
    assert embeds.shape == (1, 8, 16) and embeds[0, 3].any() and not embeds[0, 4:].any()


def test_too_long_a_prompt_is_refused_with_its_count(tokenizer, text_encoder):
    with pytest.raises(UserError, match=r"takes 4 tokens and 3 fit: 'a red ball'.*--truncate"):
        encode_prompts(tokenizer, text_encoder, ["a red ball"], 3)
    assert count_tokens(tokenizer, "a red ball") == 4


def test_a_cut_prompt_keeps_its_end_mark(tokenizer, text_encoder, caplog):
    long, short = (
        encode_prompts(tokenizer, text_encoder, [prompt], 4, truncate=True)
        for prompt in ("a red ball rolls", "a red ball")
    )
    assert torch.equal(long, short)
    assert "1 of 5 tokens were cut off" in caplog.text


def test_a_tokenizer_may_carry_the_words_it_was_trained_on(tokenizer, tmp_path):
    prompt = "A red zebra's ball, 3 zebras"
    assert unknown_words(tokenizer, prompt) == ["zebra's", "3", "zebras"]  # no tokens for them
    tokenizer.init_kwargs["known_words"] = ["a", "zebras"]
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert unknown_words(loaded, prompt) == ["red", "zebra's", "ball", "3"]


EMOJI = ["🔴", "👩🏽‍🚀", "❤️", "🇫🇷"]


@pytest.mark.parametrize("carries", [True, False])
def test_numbers_and_emoji_are_named_and_punctuation_is_not(tokenizer, carries):
    prompt = f"a (red) ball {EMOJI[0]}, 3 balls! {EMOJI[1]}{EMOJI[2]} - on grass... 12 {EMOJI[3]}."
    if carries:
        tokenizer.init_kwargs["known_words"] = ["a", "red", "ball", "balls", "on", "grass", "3"]
    found = unknown_words(tokenizer, prompt)
    wanted = [EMOJI[0], "3", "balls", EMOJI[1] + EMOJI[2], "12", EMOJI[3]]
    if carries:
        wanted = [each for each in wanted if each not in ("3", "balls")]
    assert found == wanted
