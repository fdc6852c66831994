"""New words and soft prompts."""

import pytest
import torch
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    CLIPTokenizer,
    T5EncoderModel,
    T5Tokenizer,
)

from t2v.config.finetune import FinetuneConfig
from t2v.errors import UserError
from t2v.models.text import encode_prompts
from t2v.training.tuning.textual_inversion import add_words, concept_starts, put_before

PROMPTS = ["a red ball rolls on the grass", "blue box", ""]


def settings(**changes):
    return FinetuneConfig(data="x", output="y", **changes)


def embedded(tokenizer, text_encoder, prompts):
    with torch.no_grad():
        return encode_prompts(tokenizer, text_encoder, prompts, 16)


def test_only_the_rows_of_new_words_and_of_the_soft_prompt_learn(tokenizer, text_encoder):
    before = text_encoder.get_input_embeddings().weight.detach().clone()
    words = {"concept": ("<toy>",), "concept_from": ("red ball",), "soft_prompt": "the snow"}
    add_words(tokenizer, text_encoder, settings(**words))
    table = text_encoder.get_input_embeddings().weight
    assert len(table) == len(before) + 3
    tokens = tokenizer("a <toy> on the grass", return_tensors="pt").input_ids
    assert {len(before), len(before) + 1, len(before) + 2} < set(tokens[0].tolist())
    text_encoder(input_ids=tokens).last_hidden_state.sum().backward()
    assert (table.grad[-3:].abs().amax(1) > 0).all()
    assert table.grad[:-3].abs().max() == 0
    torch.optim.AdamW([table], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(table[:-3], before)
    with pytest.raises(UserError, match="take a new word"):
        concept_starts(tokenizer, text_encoder, ["<toy>"], [])


def test_a_fresh_soft_prompt_is_its_text_before_every_prompt_to_the_bit(
    tokenizer, text_encoder, tmp_path
):
    wanted = embedded(tokenizer, text_encoder, [f"the snow {prompt}" for prompt in PROMPTS])
    assert add_words(tokenizer, text_encoder, settings(soft_prompt="the snow")) is tokenizer
    assert torch.equal(embedded(tokenizer, text_encoder, PROMPTS), wanted)
    tokenizer.save_pretrained(tmp_path)
    text_encoder.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path), T5EncoderModel.from_pretrained(tmp_path)
    assert torch.equal(embedded(*loaded, PROMPTS), wanted)


def test_a_second_soft_prompt_stands_behind_the_first(tokenizer, text_encoder):
    wanted = embedded(tokenizer, text_encoder, ["the snow under a ball"])
    add_words(tokenizer, text_encoder, settings(soft_prompt="the snow"))
    add_words(tokenizer, text_encoder, settings(soft_prompt="under"))
    assert torch.equal(embedded(tokenizer, text_encoder, ["a ball"]), wanted)


VOCABULARY = ["<pad>", "</s>", "<unk>", "▁red", "▁ball", "▁a"]
OTHERS = {
    "T5": lambda: T5Tokenizer(vocab=[(word, -float(at)) for at, word in enumerate(VOCABULARY)]),
    "CLIP": lambda: CLIPTokenizer(
        vocab={"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "red</w>": 3}, merges=[]
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_tokenizers_of_single_models_keep_a_soft_prompt_too(kind, tmp_path):
    tokenizer = OTHERS[kind]()
    before = tokenizer("a").input_ids
    at = before.index(tokenizer("a", add_special_tokens=False).input_ids[0])
    tokenizer.add_tokens(["<soft-1>", "<soft-2>"])
    soft = tokenizer.convert_tokens_to_ids(["<soft-1>", "<soft-2>"])
    kept = put_before(tokenizer, ["<soft-1>", "<soft-2>"])
    kept.save_pretrained(tmp_path)
    for each in (kept, AutoTokenizer.from_pretrained(tmp_path)):
        assert each("a").input_ids == [*before[:at], *soft, *before[at:]]
        assert each.pad_token == tokenizer.pad_token
        assert each.model_max_length == tokenizer.model_max_length


def test_a_tokenizer_that_puts_nothing_before_prompts_is_refused():
    with pytest.raises(UserError, match="ByT5Tokenizer cannot put tokens before"):
        put_before(ByT5Tokenizer(), ["a"])


def test_a_soft_prompt_of_no_words_is_refused(tokenizer, text_encoder):
    with pytest.raises(UserError, match="no tokens to start from"):
        add_words(tokenizer, text_encoder, settings(soft_prompt=" "))
