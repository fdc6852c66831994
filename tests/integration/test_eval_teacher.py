"""`t2v eval teacher=... seeds=...`: students beside their teacher, at the same noise."""

import json
from pathlib import Path

import pytest

from t2v.config.evaluation import CompareConfig, EvalConfig
from t2v.errors import UserError
from t2v.evaluation.compare import compare
from t2v.evaluation.run import evaluate

JUDGES = ("teacher", "variety")


@pytest.fixture
def model(pipe, tmp_path):
    pipe.register_to_config(
        num_frames=5, num_inference_steps=4, guidance_scale=2.0, max_sequence_length=40
    )
    pipe.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def report_of(model, tmp_path):
    """Evaluates three prompts; gives the report."""

    def run(name, **settings):
        words = {"model": model, "count": 3, "device": "cpu", "metrics": JUDGES, "seeds": 2}
        words |= {"clips_kept": str(tmp_path / "clips")}
        evaluate(EvalConfig(**words | settings, output=str(tmp_path / name)))
        return json.loads((tmp_path / name / "eval.json").read_text())

    return run


def kept(tmp_path):
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}


def test_a_model_that_is_its_own_teacher_makes_equal_videos(report_of, model, tmp_path):
    report = report_of("own", teacher=model, metrics=("dynamics", *JUDGES))
    told = report["protocol"]["teacher"]
    assert (told["model"], told["steps"], told["guidance"]) == (model, 4, 2.0)
    assert report["protocol"]["seeds of each prompt"] == 2
    tables = report["suites"]["world"]["tables"]
    own, chance = (tables["teacher"][row] for row in ("model", "teacher, another seed"))
    assert own["psnr"]["value"] == own["psnr"]["low"] == 100 > chance["psnr"]["high"]
    assert all(own[name]["value"] == 1 for name in ("jerk", "sharpness", "block_edges", "variety"))
    assert tables["variety"]["model"] == tables["variety"]["teacher"]
    assert tables["variety"]["model"]["pixels"]["value"] > 0
    assert {"real clips", "another real clip"} < set(tables["variety"])
    assert tables["dynamics"]["model"] == tables["dynamics"]["teacher"]
    page = (tmp_path / "own" / "page.html").read_text()
    assert page.count("data:video/mp4;base64,") == 3 * 3 and "teacher, another seed" in page
    assert "| teacher, another seed |" in (tmp_path / "own" / "eval.md").read_text()


def test_fewer_steps_are_further_from_the_teacher_whatever_the_batches(report_of, model, tmp_path):
    few, fewer = (
        report_of(f"{steps}", teacher=model, num_inference_steps=steps, batch_size=3)
        for steps in (3, 1)
    )
    before = kept(tmp_path)
    again = report_of("1", teacher=model, num_inference_steps=1, batch_size=3)
    assert again == fewer and kept(tmp_path) == before  # nothing is sampled again
    near, far = (each["suites"]["world"]["tables"]["teacher"]["model"] for each in (few, fewer))
    assert 100 > near["psnr"]["value"] > far["psnr"]["value"]
    alone = {"seeds": 1, "metrics": ("teacher",), "clips_kept": str(tmp_path / "one-by-one")}
    single = report_of("single", teacher=model, num_inference_steps=1, batch_size=1, **alone)
    ours = single["suites"]["world"]["tables"]["teacher"]["model"]
    assert set(far) - set(ours) == {"variety"}
    for name, cell in ours.items():
        assert cell["value"] == pytest.approx(far[name]["value"], rel=0.01)

    runs = tuple(str(tmp_path / name) for name in ("3", "1"))
    text = compare(CompareConfig(runs=runs, output=str(tmp_path / "compared")))
    for name in ("teacher.psnr", "variety.pixels", "variety.perceptual"):
        assert f"| {name} |" in text


def test_without_a_teacher_and_seeds_nothing_more_is_sampled(report_of, tmp_path):
    report = report_of("plain", seeds=1, metrics=())
    tables = report["suites"]["world"]["tables"]
    assert tables["teacher"]["model"]["psnr"]["not_run"] == "no teacher is named: teacher=MODEL"
    assert "seeds=4" in tables["variety"]["model"]["pixels"]["not_run"]
    assert "teacher" not in report["protocol"] and "teacher" not in tables["dynamics"]
    assert len(kept(tmp_path)) == 1


def test_a_teacher_of_other_latents_is_refused(model, wan, tmp_path):
    wan.save_pretrained(tmp_path / "wan")
    config = EvalConfig(model=model, output=str(tmp_path / "out"), count=1, device="cpu")
    for given, words in (
        ({"teacher": str(tmp_path / "wan")}, r"is a WanPipeline of latents .* the same latents"),
        ({"teacher": str(tmp_path / "none")}, "there is no such folder"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate(EvalConfig(**vars(config) | given))
    assert not Path(tmp_path, "out", "clips").exists()


def test_pipelines_of_other_packages_have_teachers_too(report_of, wan, tmp_path):
    folder = str(tmp_path / "wan")
    wan.save_pretrained(folder)
    own = {"height": 32, "width": 48, "num_frames": 5, "num_inference_steps": 1}
    words = {"model": folder, "teacher": folder, "perceptual": None, "count": 1, **own}
    found = report_of("wan", **words, metrics=("teacher", "variety"))
    table = found["suites"]["world"]["tables"]["teacher"]["model"]
    assert found["protocol"]["teacher"]["steps"] == 50  # of its call
    assert table["psnr"]["value"] < 100 and table["block_edges"]["n"] == 1
    assert found["suites"]["world"]["tables"]["variety"]["model"]["pixels"]["n"] == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"metrics": ("teacher",)}, r"Give teacher=MODEL"),
        ({"metrics": ("variety",)}, r"Give seeds=4"),
        ({"seeds": 0}, "seeds=0"),
        ({"seeds": 4, "metrics": ("dynamics",)}, "Add variety to metrics"),
    ],
)
def test_settings_that_do_not_agree_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        EvalConfig(output="o", **given)


@pytest.mark.parametrize("given", [{"teacher": "t2v-tiny"}, {"seeds": 2}])
def test_suites_that_give_something_have_no_teacher(given, tmp_path):
    config = EvalConfig(output=str(tmp_path / "o"), suites=("first", "story"), count=1, **given)
    with pytest.raises(UserError, match="suites of prompts alone"):
        evaluate(config)
