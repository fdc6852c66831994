"""Folders that cannot be loaded are one message."""

import pytest
import torch
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from t2v.errors import UserError
from t2v.evaluation.world import load_oracle, load_pipeline
from t2v.models.load import load_text, refuse_missing
from t2v.training.dit import load_vae
from t2v.world.oracle import WorldOracle


def damage(folder):
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])


def test_a_damaged_part_is_named_by_every_loader(tmp_path, pipe):
    pipe.save_pretrained(tmp_path / "model")
    WorldOracle(width=8).save_pretrained(tmp_path / "oracle")
    damage(tmp_path)
    for load, what in (
        (lambda: load_pipeline(str(tmp_path / "model")), "model="),
        (lambda: load_vae(tmp_path / "model"), "vae="),
        (lambda: load_text(tmp_path / "model"), "text="),
        (lambda: load_oracle(str(tmp_path / "oracle")), "oracle="),
    ):
        with pytest.raises(UserError, match=f"^{what}.*cannot be loaded"):
            load()


def test_a_weight_that_no_file_has_is_refused():
    with torch.device("meta"):
        part = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"vae=x: some of its weights are missing"):
        refuse_missing("vae=x", nn.Linear(2, 2), part)


def test_a_vae_of_an_unknown_class_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(UserError, match=r"AutoencoderKL; known are AutoencoderKLT2V"):
        load_vae(tmp_path)


def test_a_text_encoder_loads_as_the_class_it_was_saved_as(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = UMT5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(tmp_path / "text_encoder")
    assert type(load_text(tmp_path)[1]) is UMT5EncoderModel
