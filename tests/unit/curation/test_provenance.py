"""What judged is told by version and hash, and told apart when it is another."""

from dataclasses import replace

import av
import pytest

from t2v.config.captions import CaptionConfig
from t2v.config.curation import CurateConfig, OverlayConfig, QualityConfig
from t2v.config.load import load_config
from t2v.curation import provenance as module
from t2v.curation.journal import Analysis
from t2v.curation.provenance import model_hash, provenance
from t2v.curation.report.card import data_card
from t2v.curation.report.tables import provenance_rows
from t2v.curation.run import curate
from t2v.io import engine
from t2v.io.manifest import Clip


@pytest.fixture
def config(tmp_path):
    return CurateConfig(input="in", output=str(tmp_path / "out"))


def test_versions_and_rules_are_recorded(config):
    told = provenance(config, 3)
    assert told["rules"] == 3
    assert told["versions"]["av"] == av.__version__
    assert {"t2v", "numpy", "opencv-python-headless", "ffmpeg"} <= set(told["versions"])
    assert "torch" not in told["versions"]
    assert told["models"] == {}


def test_settings_that_decide_change_the_hash_and_others_do_not(config):
    told = provenance(config, 3)
    assert provenance(replace(config, input="elsewhere", workers=3), 3) == told
    other = replace(config, quality=QualityConfig(min_sharpness=2.6))
    assert provenance(other, 3)["settings"] != told["settings"]


def test_a_model_is_identified_by_the_hash_of_its_files(config, tmp_path):
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


@pytest.fixture
def asked(monkeypatch):
    """What each stage was given to do, with workers that answer at once: title to count."""
    asked = {}

    def answer(title, unit, function, items, config, device="cpu"):
        asked[title] = len(items)
        for number, item in enumerate(items):
            clip = Clip(path=item.path, end=1.0, fps=24.0, width=64, height=64, extra={"id": "a"})
            analysis = Analysis([clip])
            yield number, analysis if title == "analyze" else replace(item, caption="a dog")

    monkeypatch.setattr(engine, "run", answer)
    return asked


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("analyze", "quality.aesthetic_model"),
        ("caption", "caption.tokenizer"),
        ("caption", "caption.scorer"),
        ("caption", "caption.authors"),
    ],
)
def test_other_weights_in_the_same_folder_run_again(stage, setting, tmp_path, asked):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"film")
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    value = f"[model:{model}]" if setting.endswith("authors") else str(model)
    words = [f"{setting}={value}", "caption.device=cpu", "skip=[dedup,topics,balance]"]
    words += [f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}"]
    config = load_config(CurateConfig, None, words)
    curate(config)
    assert asked == {"analyze": 1, "caption": 1}
    curate(config)
    assert asked == {"analyze": 0, "caption": 0}
    (model / "model.safetensors").write_bytes(b"other weights")
    curate(config)
    assert asked == {"analyze": int(stage == "analyze"), "caption": int(stage == "caption")}


def test_a_model_that_a_worker_fetched_is_known_the_next_time(tmp_path, asked, monkeypatch):
    hashes = iter(["unknown"])
    monkeypatch.setattr(module, "model_hash", lambda name: next(hashes, "known"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"film")
    config = CurateConfig(
        input=str(tmp_path / "in"),
        output=str(tmp_path / "out"),
        skip=("dedup", "topics", "balance"),
        caption=CaptionConfig(authors=("model:somebody/model",), device="cpu"),
    )
    for count in (1, 0):
        curate(config)
        assert asked == {"analyze": count, "caption": count}


def test_ocr_is_identified_by_its_version(config):
    read = replace(config, overlay=OverlayConfig(ocr="rapidocr"))
    assert {"rapidocr", "onnxruntime"} <= set(provenance(read, 3)["versions"])
    assert "rapidocr" not in provenance(replace(read, skip=("overlay",)), 3)["versions"]


def test_the_card_of_the_data_tells_them(config):
    stats = {"clips": 0, "files": 0, "dropped": 0, "failed": 0, "kept": 0, "decode_seconds": 0.0}
    stats |= {"stages": [], "judges": provenance(config, 3)}
    card = data_card([], stats)
    for name, value in provenance_rows(stats):
        assert value.replace("_", r"\_") in card, name
