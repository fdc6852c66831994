"""Text encoders read otherwise than they stand, and two at once."""

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from t2v.config.text import TextEncoderConfig
from t2v.errors import UserError
from t2v.models.load import load_text
from t2v.models.text import count_tokens, encode_prompts, unknown_words
from t2v.models.text_networks import SmallText, TextPair
from t2v.models.text_reading import joined, read_as, shorten, whitening
from t2v.models.text_small import build_small_text
from t2v.models.text_tokenizers import TokenizerPair, byte_tokenizer
from t2v.pipelines.t2v import T2VPipeline
from t2v.prompting.embed import token_weights
from t2v.prompting.syntax import parse

CAPTIONS = [
    f"a {colour} {thing} {verb} {place}"
    for colour in ("red", "blue")
    for thing in ("ball", "box")
    for verb in ("rolls", "bounces")
    for place in ("on the grass", "under the sky , .", "on snow")
]
PROMPTS = ["a red ball on the grass", "a blue box", "snow"]


def rows(text, prompts=PROMPTS, length=8):
    with torch.no_grad():
        return encode_prompts(*text, prompts, length)


def states(text, prompt):
    with torch.no_grad():
        ids = text[0](prompt, return_tensors="pt").input_ids
        return text[1](input_ids=ids, output_hidden_states=True).hidden_states


def bytes_text():
    tokenizer = byte_tokenizer(["a", "red", "ball"])
    return tokenizer, build_small_text("bytes", len(tokenizer)).eval()


@pytest.mark.parametrize("layer", [1, -2])
def test_a_layer_is_what_the_encoder_gives_without_those_above_it(tokenizer, text_encoder, layer):
    before = sum(p.numel() for p in text_encoder.parameters())
    norm = text_encoder.encoder.final_layer_norm
    wanted = norm(states((tokenizer, text_encoder), PROMPTS[0])[1])[0]
    text = read_as((tokenizer, text_encoder), TextEncoderConfig(layer=(layer,)))
    assert torch.equal(rows(text)[0, : len(wanted)], wanted)
    assert type(text[1]) is type(text_encoder)
    assert sum(p.numel() for p in text[1].parameters()) < before


def test_layers_are_averaged_at_the_length_of_the_topmost(tokenizer, text_encoder):
    _, first, _ = states((tokenizer, text_encoder), PROMPTS[0])
    plain = rows((tokenizer, text_encoder))[:1, : first.shape[1]]
    scaled = first / first.norm(dim=-1, keepdim=True) * plain.norm(dim=-1, keepdim=True)
    both = rows(read_as((tokenizer, text_encoder), TextEncoderConfig(layer=(-1, 1))))
    torch.testing.assert_close(both[:1, : first.shape[1]], (scaled + plain) / 2)


def test_what_enters_the_first_layer_knows_the_token_alone(tokenizer, text_encoder):
    text = read_as((tokenizer, text_encoder), TextEncoderConfig(layer=(0,)))
    one, other = rows(text, ["a red ball", "a blue ball"])
    cosine = torch.cosine_similarity(one, other, dim=-1)
    torch.testing.assert_close(cosine[[0, 2]], torch.ones(2))
    assert cosine[1] < 0.9


def test_whitened_tokens_have_no_mean_and_the_unit_covariance(tokenizer, text_encoder):
    text = read_as((tokenizer, text_encoder), TextEncoderConfig(whiten=True), CAPTIONS)
    ids = [tokenizer(each).input_ids for each in CAPTIONS]
    found = torch.cat(
        [rows(text, [each], len(n))[0] for each, n in zip(CAPTIONS, ids, strict=True)]
    )
    assert found.mean(0).abs().max() < 1e-3
    covariance = found.T @ found / len(found)
    # few captions of few words do not fill all directions; those that they fill have variance 1
    strong = covariance.diagonal() > 0.5
    assert strong.sum() > 16
    torch.testing.assert_close(
        covariance[strong][:, strong], torch.eye(int(strong.sum())), atol=1e-2, rtol=0
    )


def test_a_narrow_whitening_keeps_the_strongest_directions(tokenizer, text_encoder):
    mean, matrix = whitening(tokenizer, text_encoder, CAPTIONS, 32)
    lengths = matrix.norm(dim=0)
    assert bool((lengths[1:] >= lengths[:-1] * (1 - 1e-9)).all())  # a weak one is scaled up more
    config = TextEncoderConfig(whiten=True, width=5)
    plain = rows((tokenizer, text_encoder))[0, 0]
    text = read_as((tokenizer, text_encoder), config, CAPTIONS)
    wanted = ((plain.double() - mean) @ matrix[:, :5]).float()
    torch.testing.assert_close(rows(text)[0, 0], wanted, atol=1e-4, rtol=1e-4)


def test_a_whitening_needs_more_tokens_than_channels(tokenizer, text_encoder):
    with pytest.raises(UserError, match="4 tokens, and to tell 32 directions takes more"):
        read_as((tokenizer, text_encoder), TextEncoderConfig(whiten=True), ["a red ball"])


def test_the_mean_of_all_tokens_stands_at_the_last_one(tokenizer, text_encoder):
    plain = rows((tokenizer, text_encoder))
    pooled = rows(read_as((tokenizer, text_encoder), TextEncoderConfig(pooled=True, width=20)))
    for prompt, before, after in zip(PROMPTS, plain[..., :20], pooled, strict=True):
        count = count_tokens(tokenizer, prompt)
        assert torch.equal(before[: count - 1], after[: count - 1])
        torch.testing.assert_close(after[count - 1], before[:count].mean(0))
        assert not after[count:].any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer": (3,)}, r"layer=\[3\]: this T5EncoderModel has 2 layers. .*from -3 to -1"),
        ({"layer": (2, -1)}, "Give different numbers"),
        ({"width": 33}, "width=33: this T5EncoderModel is 32 wide. Give at most 32"),
    ],
)
def test_what_the_encoder_has_not_is_refused(tokenizer, text_encoder, settings, words):
    with pytest.raises(UserError, match=words):
        read_as((tokenizer, text_encoder), TextEncoderConfig(**settings), CAPTIONS)


def test_settings_that_stand_alone_are_checked_without_an_encoder():
    for wrong in ({"layer": ()}, {"layer": (1, 1)}, {"width": 0}):
        with pytest.raises(UserError, match=r"text_encoder\.(layer|width)="):
            TextEncoderConfig(**wrong)


def test_the_layers_of_any_encoder_of_transformers_can_be_left_out(tokenizer):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=3,
        num_attention_heads=2, eos_token_id=1, bos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    clip = CLIPTextModel(config).eval()
    wanted = clip.final_layer_norm if hasattr(clip, "final_layer_norm") else None
    wanted = wanted or clip.text_model.final_layer_norm
    second = wanted(states((tokenizer, clip), PROMPTS[0])[2])[0]
    shorten(clip, 2)
    assert clip.config.num_hidden_layers == 2
    assert torch.equal(rows((tokenizer, clip))[0, : len(second)], second)


def test_an_encoder_whose_layers_are_in_no_list_keeps_them(tokenizer, text_encoder):
    text_encoder.encoder.block = torch.nn.Sequential(*text_encoder.encoder.block)
    with pytest.raises(UserError, match=r"has its 2 layers in \d lists"):
        shorten(text_encoder, 1)


def test_two_encoders_give_the_tokens_of_both(tokenizer, text_encoder):
    second = bytes_text()
    one, other = rows((tokenizer, text_encoder)), rows(second, length=40)
    pair = joined((tokenizer, text_encoder), second)
    for n, found in enumerate(rows(pair, length=48)):
        a, b = (count_tokens(each, PROMPTS[n]) for each in (tokenizer, second[0]))
        assert count_tokens(pair[0], PROMPTS[n]) == a + b
        torch.testing.assert_close(found[:a, :32], one[n, :a])
        assert not found[:a, 32:].any()
        torch.testing.assert_close(found[a : a + b], other[n, :b])
        assert not found[a + b :].any()


def test_a_batch_of_two_encoders_is_each_text_alone(tokenizer, text_encoder):
    tokenizers, pair = joined((tokenizer, text_encoder), bytes_text())
    tokens = tokenizers(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = pair(**tokens).last_hidden_state * tokens.attention_mask.unsqueeze(-1)
    torch.testing.assert_close(found, rows((tokenizers, pair), length=found.shape[1]))


def test_two_tokenizers_cut_weigh_and_warn_like_one(tokenizer, text_encoder):
    tokenizers, _ = joined((tokenizer, text_encoder), bytes_text())
    assert isinstance(tokenizers, TokenizerPair) and tokenizers.is_fast
    cut = tokenizers("a red ball", truncation=True, max_length=8).input_ids
    assert len(cut) == 4 + 4 and cut[:4] == tokenizer("a red ball").input_ids
    (scene,) = parse("a (red:2) ball")
    weights = [*token_weights(tokenizers, scene.clauses[0], 0, "a red ball")]
    assert weights == [1, 2, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]
    assert unknown_words(tokenizers, "a red zebra") == ["zebra"]
    with pytest.raises(UserError, match="this model has two"):
        tokenizers.add_tokens(["<toy>"])


@pytest.mark.parametrize(
    "settings",
    [
        {"layer": (1, -1), "whiten": True, "width": 12, "pooled": True},
        {"layer": (1,), "second": "bytes"},
        {"second": "ngrams", "pooled": True},
    ],
)
def test_a_pipeline_is_saved_and_loaded_as_it_reads(pipe, tmp_path, settings):
    if second := settings.get("second"):
        tokenizer = bytes_text()[0] if second == "bytes" else pipe.tokenizer
        tokenizer.save_pretrained(tmp_path / second / "tokenizer")
        build_small_text(second, len(tokenizer)).save_pretrained(tmp_path / second / "text_encoder")
        settings = settings | {"second": str(tmp_path / second)}
    text = read_as((pipe.tokenizer, pipe.text_encoder), TextEncoderConfig(**settings), CAPTIONS)
    pipe.register_modules(tokenizer=text[0], text_encoder=text[1])
    pipe.save_pretrained(tmp_path / "pipe")
    again = T2VPipeline.from_pretrained(tmp_path / "pipe")
    wanted = rows(text, length=48)
    assert torch.equal(again.encode_prompt(PROMPTS, max_sequence_length=48)[0], wanted)
    assert torch.equal(rows(load_text(tmp_path / "pipe"), length=48), wanted)


def test_new_words_reach_the_encoder_within(tokenizer, text_encoder):
    _, reading = read_as((tokenizer, text_encoder), TextEncoderConfig(pooled=True))
    count = reading.get_input_embeddings().num_embeddings
    table = reading.resize_token_embeddings(count + 2, mean_resizing=False)
    assert reading.get_input_embeddings() is table and table.num_embeddings == count + 2
    assert reading.config.encoder["vocab_size"] == reading.config.vocab_size == count + 2


@pytest.mark.parametrize("kind", ["ngrams", "bytes", "average"])
def test_a_small_encoder_reads_each_text_as_if_it_were_alone(kind, tokenizer, wake):
    if kind == "bytes":
        tokenizer = byte_tokenizer([])
    encoder = wake(build_small_text(kind, len(tokenizer)))
    tokens = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = encoder(**tokens).last_hidden_state * tokens.attention_mask.unsqueeze(-1)
    alone = rows((tokenizer, encoder), length=found.shape[1])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    assert alone[0].any() and not torch.equal(alone[0, 0], alone[0, 1])


def test_of_the_small_ones_an_average_alone_knows_no_order(tokenizer, wake):
    swapped = ["a red ball a blue box", "a blue ball a red box"]
    for kind in ("ngrams", "bytes", "average"):
        used = byte_tokenizer([]) if kind == "bytes" else tokenizer
        encoder = wake(build_small_text(kind, len(used)))
        one, other = rows((used, encoder), swapped, 24)
        apart = float((one.sum(0) - other.sum(0)).abs().max())
        assert apart < 1e-4 if kind == "average" else apart > 1e-2


def test_ngrams_of_one_hash_share_a_row_and_reach_three_tokens_back(tokenizer, wake):
    encoder = wake(build_small_text("ngrams", len(tokenizer)))
    assert isinstance(encoder, SmallText)
    texts = ["a red ball on snow", "the red ball on snow", "a blue ball on snow"]
    one, first, second = rows((tokenizer, encoder), texts)
    assert not torch.equal(one[2], first[2])  # "a red ball" is not "the red ball"
    assert torch.equal(one[3], first[3]) and not torch.equal(one[3], second[3])
    assert torch.equal(one[4], second[4])  # "ball on snow" in both


def test_bytes_spell_any_text_in_lower_case():
    tokenizer = byte_tokenizer(["a"])
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    ids = tokenizer("A  Böx").input_ids
    assert ids == tokenizer("a böx").input_ids and len(ids) == len("a böx".encode()) + 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a böx"


def test_a_pair_may_be_read_again(tokenizer, text_encoder):
    pair = joined((tokenizer, text_encoder), bytes_text())
    _, narrow = read_as(pair, TextEncoderConfig(width=40))
    assert isinstance(narrow.encoder, TextPair)
    assert torch.equal(rows((pair[0], narrow), length=48), rows(pair, length=48)[..., :40])
