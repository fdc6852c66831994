"""`t2v eval suites=[story]`: films of five scenes of a tiny model, judged, kept and compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from t2v.config.evaluation import CompareConfig, EvalConfig
from t2v.config.story import WindowsConfig
from t2v.errors import UserError
from t2v.evaluation import stories
from t2v.evaluation.compare import compare
from t2v.evaluation.rows import CEILING, CHANCE, MODEL, REAL
from t2v.evaluation.run import evaluate
from t2v.world.oracle import WorldOracle

FIGURES = {
    *("seam", "seam_over_vae", "latents", "colour_drift", "sharpness_drift", "flicker"),
    *("switch", "identity"),
}


@pytest.fixture
def config(pipe, tmp_path):
    """Settings for a model that goes on from latents: windows of 9 frames, one step."""
    pipe.transformer.take_known(picture_tokens=False)
    pipe.register_to_config(max_sequence_length=32)
    pipe.save_pretrained(tmp_path / "model")
    WorldOracle(width=8).save_pretrained(tmp_path / "oracle")
    return EvalConfig(
        model=str(tmp_path / "model"),
        output=str(tmp_path / "out"),
        suites=("story",),
        count=2,
        oracle=str(tmp_path / "oracle"),
        perceptual=None,
        num_inference_steps=1,
        guidance_scale=1.0,
        windows=WindowsConfig(overlap=1),
        device="cpu",
    )


def read(folder):
    return json.loads(Path(folder, "eval.json").read_text())


def test_films_are_judged_beside_the_real_ones_told_once_and_compared(
    config, tmp_path, monkeypatch
):
    told = []
    tell = stories.tell
    monkeypatch.setattr(stories, "tell", lambda *given: told.append(given[1]) or tell(*given))
    text = evaluate(config)
    suite = read(config.output)["suites"]["story"]
    table = suite["tables"]["story"]
    assert list(table) == [MODEL, CEILING, REAL, CHANCE]
    assert set(suite["tables"]) == {"world", "story", "events"}
    assert all(set(row) == FIGURES for row in table.values())
    assert table[CEILING]["seam_over_vae"]["value"] == 1
    assert table[REAL]["colour_drift"]["value"] == table[REAL]["sharpness_drift"]["value"] == 0
    assert suite["ranking"] == "story.switch" and "## story, 2 prompts" in text
    assert [sum(scene.num_frames for scene in scenes) for scenes in told] == [81, 81]
    assert Path(config.output, "page.html").read_text().count("<video ") == 2 * 3
    told.clear()
    evaluate(config)
    assert not told and read(config.output)["suites"]["story"] == suite
    other_way = str(tmp_path / "other")
    evaluate(replace(config, output=other_way, windows=WindowsConfig(overlap=0)))
    other = read(other_way)
    assert len(told) == 2 and other["protocol"]["windows"]["overlap"] == 0
    assert other["suites"]["story"]["videos"][0]["key"] != suite["videos"][0]["key"]
    runs = (config.output, other_way)
    text = compare(CompareConfig(runs=runs, output=str(tmp_path / "compared")))
    assert "| story.seam_over_vae |" in text and "overlap 0" in text
    assert (tmp_path / "compared/vote.html").read_text().count("<section ") == 2


def test_what_cannot_be_told_is_refused_before_anything_is_sampled(config, pipe):
    with pytest.raises(UserError, match=r"windows.*suites=\['world'\] tells none"):
        evaluate(replace(config, suites=("world",)))
    with pytest.raises(UserError, match="Give frames of at least 13"):
        evaluate(replace(config, windows=WindowsConfig(overlap=2)))
    pipe.transformer.register_to_config(conditioning="none")
    pipe.save_pretrained(config.model)
    with pytest.raises(UserError, match="this model takes text alone"):
        evaluate(config)
    assert not Path(config.output, "clips").exists()
