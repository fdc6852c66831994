"""Trainings whose text encoder is read otherwise than it stands, and what they save."""

import json
from dataclasses import replace

import pytest
import torch

from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.config.text import TextEncoderConfig
from t2v.config.training import OptimConfig
from t2v.errors import UserError
from t2v.models.text_small import build_small_text
from t2v.pipelines.t2v import T2VPipeline
from t2v.plan.estimate import estimate
from t2v.plan.trace import UNKNOWN
from t2v.plan.workload import build
from t2v.training.engine.example import Size
from t2v.training.tasks.dit import train_dit
from t2v.training.tasks.finetune import finetune

PROMPT = "a red ball rolls on the grass"


@pytest.fixture
def second(tokenizer, tmp_path):
    """A folder of a second tokenizer and text encoder, wider than the first."""
    tokenizer.save_pretrained(tmp_path / "second" / "tokenizer")
    encoder = build_small_text("ngrams", len(tokenizer))
    encoder.save_pretrained(tmp_path / "second" / "text_encoder")
    return str(tmp_path / "second")


def reads(folder):
    pipe = T2VPipeline.from_pretrained(folder)
    return pipe, pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)[0]


@pytest.mark.parametrize("learns", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_training_reads_two_encoders_as_it_is_told_and_saves_them(dit_config, second, learns):
    reading = TextEncoderConfig(layer=(1,), whiten=True, width=12, pooled=True, second=second)
    model = replace(dit_config.model, text_dim=192)
    config = replace(
        dit_config, model=model, text_encoder=reading, max_sequence_length=24, steps=2,
        train_text_encoder=learns,
    )  # fmt: skip
    pipe, text = reads(train_dit(config))
    assert text.shape == (1, 24, 192) and text[0, 15].any() and not text[0, 16:].any()
    assert not text[0, :8, 12:].any()
    assert pipe.text_encoder.first.encoder.config.num_layers == 1
    assert not torch.equal(pipe.text_encoder.first.whitening, torch.eye(32, 12))


def test_a_narrow_reading_names_the_width_that_the_transformer_must_have(dit_config):
    narrow = replace(dit_config, text_encoder=TextEncoderConfig(width=20))
    with pytest.raises(UserError, match=r"model.text_dim=32, but text=.* is 20 wide"):
        train_dit(narrow)


@pytest.fixture
def tuning(pipe, clips, tmp_path):
    pipe.register_to_config(num_frames=5, height=16, width=32)
    pipe.save_pretrained(tmp_path / "base")
    return FinetuneConfig(
        device="cpu", model=str(tmp_path / "base"), data=str(clips), output=str(tmp_path / "tuned"),
        lora=LoRAConfig(rank=2, alpha=4), steps=2, batch_size=3, held_out=3, save_every=2,
        validate_every=2, precision="fp32", caption_dropout=0.0,
        text_encoder=TextEncoderConfig(layer=(1, -1), pooled=True),
        optim=OptimConfig(name="adamw", adam_lr=3e-2, warmup_steps=1, ema_decay=0.5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "save"),
    [
        ("lora", "adapter"),
        pytest.param("lora", "full", marks=pytest.mark.slow),
        pytest.param("full", "adapter", marks=pytest.mark.slow),
    ],
)
def test_a_tuned_model_keeps_the_way_its_text_is_read(tuning, tmp_path, method, save):
    _, before = reads(tuning.model)
    checkpoint = finetune(replace(tuning, method=method, save=save))
    pipe, after = reads(checkpoint)
    assert type(pipe.text_encoder).__name__ == "TextReading"
    assert not torch.equal(before, after)
    index = json.loads((checkpoint / "model_index.json").read_text())
    assert index["text_encoder"] == ["t2v", "TextReading"]
    again = replace(tuning, model=str(checkpoint), output=str(tmp_path / "again"), steps=1)
    plain = finetune(replace(again, text_encoder=TextEncoderConfig()))
    assert torch.equal(reads(plain)[1], after)


def test_tuning_refuses_embeddings_that_the_transformer_does_not_take(tuning):
    with pytest.raises(UserError, match=r"the embeddings are 8 wide, and .* takes 32"):
        finetune(replace(tuning, text_encoder=TextEncoderConfig(width=8)))


@pytest.mark.slow
def test_a_plan_counts_the_layers_and_encoders_that_training_would_hold(dit_config, second):
    def held(width, **settings):
        model, reading = replace(dit_config.model, text_dim=width), TextEncoderConfig(**settings)
        config = replace(
            dit_config, model=model, text_encoder=reading, train_text_encoder=False
        )  # embedded once, which the plan traces too
        size = Size(3, 5, 16, 32, 12)
        if "second" in settings:
            estimate(config, size, UNKNOWN)  # every pass of both is traced
        return sum(p.numel() for p in build(config, size).parts["text_encoder"].parameters())

    shallow = held(32, layer=(1,), whiten=True, pooled=True)
    assert shallow < held(32) < held(192, second=second)
