"""What a checkpoint of an adapter says when a file of it is damaged."""

import json

import pytest

from t2v.errors import UserError
from t2v.models.folder import embedded_model, weights_hash
from t2v.models.load import load_network
from t2v.models.transformer import T2VTransformer3DModel


def test_a_damaged_file_of_an_adapter_is_named(tmp_path):
    config = (embedded_model() / "transformer" / "config.json").read_text()
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(config)
    base = {"model": "t2v-tiny", "weights": weights_hash(embedded_model()), "share": 1}
    (tmp_path / "base.json").write_text(json.dumps(base))
    file = tmp_path / "pytorch_lora_weights.safetensors"
    file.write_bytes(b"half")
    with pytest.raises(UserError, match=rf"model=x: {file}: .* Copy the checkpoint again"):
        load_network("model=x", T2VTransformer3DModel, tmp_path, "transformer")
