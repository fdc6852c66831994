"""What judged is told by version and hash, and told apart when it is another."""

from dataclasses import replace

import av
import pytest

from t2v.config import CurateConfig
from t2v.config.captions import CaptionConfig
from t2v.config.curation import QualityConfig
from t2v.curation.provenance import model_hash, provenance
from t2v.curation.report import data_card, judges


@pytest.fixture
def config(tmp_path):
    return CurateConfig(input="in", output=str(tmp_path / "out"))


def test_versions_and_rules_are_told(config):
    told = provenance(config, 3)
    assert told["rules"] == 3
    assert told["versions"]["av"] == av.__version__
    assert {"t2v", "numpy", "opencv-python-headless", "ffmpeg"} <= set(told["versions"])
    assert "torch" not in told["versions"]
    assert told["models"] == {}


def test_settings_that_judge_change_the_hash_and_others_do_not(config):
    told = provenance(config, 3)
    assert provenance(replace(config, input="elsewhere", workers=3), 3) == told
    other = replace(config, quality=QualityConfig(min_sharpness=2.6))
    assert provenance(other, 3)["settings"] != told["settings"]


def test_a_model_is_told_by_the_hash_of_its_files(config, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    authors = ("sidecar", f"model:{model}", "model:nobody/has-this")
    named = replace(config, caption=CaptionConfig(authors=authors))
    told = provenance(named, 3)
    assert told["models"]["nobody/has-this"] == "unknown"
    assert len(told["models"][str(model)]) == 64
    assert "transformers" in told["versions"]
    (model / "model.safetensors").write_bytes(b"other weights")
    assert model_hash(str(model)) != told["models"][str(model)]
    assert provenance(replace(named, skip=("caption",)), 3)["models"] == {}


def test_the_card_of_the_data_tells_them(config):
    stats = {"clips": 0, "files": 0, "dropped": 0, "failed": 0, "kept": 0, "decode_seconds": 0.0}
    stats |= {"stages": [], "judges": provenance(config, 3)}
    card = data_card([], stats, config)
    for name, value in judges(stats):
        assert value.replace("_", r"\_") in card, name
