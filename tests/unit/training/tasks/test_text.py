"""`t2v train-text` and the kinds of `t2v world text`: text encoders from captions alone."""

from dataclasses import replace

import pytest
import torch

from t2v.cli import main
from t2v.config.text import TextEncoderConfig, TrainTextConfig
from t2v.config.world import WorldTextConfig
from t2v.errors import UserError
from t2v.models.load import load_text
from t2v.models.text import encode_prompts, unknown_words
from t2v.models.text_reading import depth_of, read_as, shortened
from t2v.training.tasks.text import contrastive_loss, read_captions, span, train_text
from t2v.world.text import build_text, encoded
from t2v.world.text import train_text as train_world

CAPTIONS = [f"a {c} {t} rests on sand" for c in ("red", "blue", "green") for t in ("cube", "ball")]


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "captions.txt"
    file.write_text("\n".join([*CAPTIONS, CAPTIONS[0]]) + "\n")
    return TrainTextConfig(
        output=str(tmp_path / "text"), data=str(file), kind="average", steps=6, batch_size=6,
        lr=0.02, vocabulary=120,
    )  # fmt: skip


def loss(config, text):
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        return float(contrastive_loss(*text, CAPTIONS, config, generator)[0])


@pytest.mark.parametrize("objective", ["declutr", "simcse"])
def test_an_encoder_learns_to_tell_captions_apart(config, objective):
    config = replace(config, objective=objective, elastic=objective == "declutr")
    train_text(config)
    learned = load_text(config.output)
    train_text(replace(config, steps=1, lr=0.0, overwrite=True))
    plain = replace(config, elastic=False)
    assert loss(plain, learned) < loss(plain, load_text(config.output))
    assert unknown_words(learned[0], "a red zebra") == ["zebra"]


def test_the_same_seed_trains_the_same_encoder_and_learning_goes_on(config, tmp_path):
    weights = []
    for name in ("one", "other"):
        train_text(replace(config, output=str(tmp_path / name), steps=3))
        weights.append(load_text(tmp_path / name)[1].embed.weight)
    assert torch.equal(*weights)
    on = replace(config, output=str(tmp_path / "on"), start_from=str(tmp_path / "one"), lr=0.0)
    train_text(on)
    assert torch.equal(load_text(on.output)[1].embed.weight, weights[0])


def test_captions_come_from_a_manifest_too_each_once(clips, config):
    assert read_captions(config) == CAPTIONS
    found = read_captions(replace(config, data=str(clips), batch_size=2))
    assert len(found) >= 2 and len(set(found)) == len(found)
    with pytest.raises(UserError, match=r"has 6 different captions, .* batch_size=7"):
        read_captions(replace(config, batch_size=7))


def test_a_span_is_some_words_that_follow_each_other():
    generator, text = torch.Generator().manual_seed(0), "one two three four five six"
    spans = {span(text, generator) for _ in range(100)}
    assert all(each in text and 2 <= len(each.split()) <= 4 for each in spans)
    assert len(spans) > 8 and span("red", generator) == "red"


def test_an_elastic_encoder_is_also_given_as_it_is_cut():
    tokenizer, encoder = build_text("bytes", CAPTIONS)
    tokens = dict(tokenizer(CAPTIONS[:2], padding=True, return_tensors="pt"))
    cuts = set()
    with torch.no_grad():
        for seed in range(12):
            whole, part = encoded(encoder.eval(), tokens, torch.Generator().manual_seed(seed))
            kept = int(part.abs().sum((0, 1)).bool().sum())
            each = {n: cut(encoder, n, kept, tokens) for n in (1, 2, 3, 4)}
            cuts |= {(n, kept) for n, text in each.items() if torch.equal(part[..., :kept], text)}
    assert {n for n, _ in cuts} == {1, 2, 3, 4} and {n for _, n in cuts} >= {48, 96, 192}
    assert depth_of(encoder) == 4 and torch.equal(whole, encoder(**tokens).last_hidden_state)


def cut(encoder, layers, width, tokens):
    with shortened(encoder, layers):
        return encoder(**tokens).last_hidden_state[..., :width]


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 1},
        {"dropout": 1.0},
        {"objective": "simcse", "dropout": 0.0},
        {"temperature": 0.0},
    ],
)
def test_settings_that_teach_nothing_are_refused(config, wrong):
    with pytest.raises(UserError, match="|".join(wrong)):
        replace(config, **wrong)


@pytest.mark.parametrize("kind", ["ngrams", "bytes", "average"])
def test_the_world_trains_each_kind_on_its_scenes(kind, tmp_path):
    words = f"world text output={tmp_path / kind} kind={kind} elastic=true count=40 batch_size=4"
    assert main([*words.split(), "steps=2"]) == 0
    tokenizer, encoder = load_text(tmp_path / kind)
    narrow = read_as((tokenizer, encoder), TextEncoderConfig(width=48))
    with torch.no_grad():
        found = encode_prompts(*narrow, ["a red ball bounces on grass"], 40)
    assert found.shape == (1, 40, 48) and found[0, 4].any()
    assert unknown_words(tokenizer, "a red zebra") == ["zebra"]


def test_no_step_leaves_the_weights_as_they_are_drawn(tmp_path):
    config = WorldTextConfig(output=str(tmp_path / "a"), kind="ngrams", count=30, steps=0)
    train_world(config)
    train_world(replace(config, output=str(tmp_path / "b"), steps=1, batch_size=2, lr=1e-9))
    train_world(replace(config, output=str(tmp_path / "c"), seed=1))
    one, other, drawn_anew = (load_text(tmp_path / name)[1].hashed.weight for name in "abc")
    torch.testing.assert_close(one, other, atol=1e-7, rtol=0)
    assert not torch.equal(one, drawn_anew)
