"""`t2v calibrate` through its door, and what `t2v sample max_error=` makes of its table."""

import json
import os
from dataclasses import replace

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from t2v.acceleration.table import FILE, Measured, Row, Setting
from t2v.cli import main
from t2v.config.calibrate import CalibrateConfig
from t2v.evaluation import calibrate
from t2v.io.video import read_video

PROMPT = "a red ball rolls on the grass"
FEW = ("count=4", "num_inference_steps=4", "device=cpu", "caches=[taylor:5]")
STEPS = "num_inference_steps=4"


@pytest.fixture
def model(pipe, tmp_path, monkeypatch):
    """The folder of the tiny pipeline, beside an empty one that commands run in."""
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "model"


@pytest.fixture
def run(capsys, caplog):
    """A command; returns exit code, stdout and all that was told."""

    def run(*argv):
        caplog.clear()
        caplog.set_level("INFO", logger="t2v")
        code = main([*map(str, argv)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err + caplog.text

    return run


def frames(path):
    return read_video(path)[0]


def sample(run, model, name, *settings):
    return run("sample", PROMPT, "--model", model, "-o", name, STEPS, *settings)


KEPT: list[str] = []  # the tiny pipeline is the same in every test, and measuring it takes a while


@pytest.fixture
def table(model, run):
    """The file of a table whose speeds were seen on a quiet machine: half the steps, twice."""
    if not KEPT:
        code, out, told = run("calibrate", model, *FEW)
        assert code == 0, told
        assert "| 2 steps |" in out and out.splitlines()[-1] == str(model / FILE)
        assert "taylor:5" in out
        KEPT.append((model / FILE).read_text())
    values = json.loads(KEPT[0])
    (found,) = values["tables"]
    for row in found["rows"]:
        about = row["setting"]
        is_half = about["num_inference_steps"] == 2 and not about["guidance_interval"]
        is_half = is_half and not about["token_merging"]
        if row["measured"]:
            row["measured"] |= {"speed_low": 1.9 if is_half else 0.9}
            if about["token_merging"] == 0.3 and about["num_inference_steps"] == 4:
                row["measured"] |= {"speed_low": 1.1}
    (model / FILE).write_text(json.dumps(values))
    return values


def test_a_budget_takes_a_row_whose_recipe_needs_no_table(model, run, table):
    (half,) = [
        row["measured"]
        for row in table["tables"][0]["rows"]
        if row["measured"]
        and row["measured"]["speed_low"] == 1.9
        and row["setting"]["cache"] == "none"
    ]
    code, _, told = sample(run, model, "fast.mp4", f"max_error={half['most_error'] * 1.01:g}")
    assert code == 0 and "2 steps; error" in told and "times as fast" in told
    settings = json.loads((model.parent / "work/fast.json").read_text())["settings"]
    assert settings["num_inference_steps"] == 2 and "max_error" not in settings
    (model / FILE).unlink()
    assert run("sample", "--recipe", "fast.mp4")[0] == 0
    assert (frames("fast.mp4") == frames("fast-again.mp4")).all()
    sample(run, model, "plain.mp4")
    assert (frames("fast.mp4") != frames("plain.mp4")).any()


def test_a_budget_that_nothing_keeps_is_the_exact_film_and_says_so(model, run, table):
    code, _, told = sample(run, model, "exact.mp4", "max_error=1e-6")
    assert code == 0 and "The video is made exactly." in told
    sample(run, model, "plain.mp4")
    assert (frames("exact.mp4") == frames("plain.mp4")).all()
    code, _, told = sample(run, model, "again.mp4", "min_psnr=98")
    assert code == 0 and "min_psnr=98: no faster setting keeps within it" in told


def test_a_budget_beside_merged_tokens_takes_a_row_of_theirs(model, run, table):
    code, _, told = sample(run, model, "few.mp4", "token_merging=0.3", "max_error=10")
    assert code == 0 and "4 steps, token_merging=0.3; error" in told
    settings = json.loads((model.parent / "work/few.json").read_text())["settings"]
    assert settings["token_merging"] == 0.3 and "max_error" not in settings
    sample(run, model, "asked.mp4", "token_merging=0.3")
    assert (frames("few.mp4") == frames("asked.mp4")).all()
    sample(run, model, "plain.mp4")  # the same model, after others
    sample(run, model, "exact.mp4", "token_merging=0.3", "max_error=1e-6")
    assert (frames("exact.mp4") == frames("plain.mp4")).all()
    assert (frames("few.mp4") != frames("plain.mp4")).any()
    told = _refused(run, model, STEPS, "token_merging=0.2")
    assert "rows of token_merging=0.1, 0.3, 0.5. Give one of these" in told


def test_a_table_that_is_not_there_or_of_something_else_is_one_message(model, run, table, tmp_path):
    assert "has no table of 9 frames of 32x48, 5 steps" in _refused(
        run, model, "num_inference_steps=5"
    )
    values = json.loads((model / FILE).read_text())
    values["tables"][0]["exact"]["weights"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(values))
    assert "is of other weights" in _refused(run, model, STEPS, "calibration=../other.json")
    (model / FILE).unlink()
    assert "Run: t2v calibrate" in _refused(run, model, STEPS)


def _refused(run, model, *settings):
    code, _, told = run(
        "sample", PROMPT, "--model", model, "-o", "no.mp4", "max_error=0.1", *settings
    )
    assert code == 2 and "Traceback" not in told
    return told


def test_a_video_with_a_cache_that_is_interrupted_keeps_nothing(model, run, monkeypatch, tmp_path):
    step, calls = FlowMatchEulerDiscreteScheduler.step, []

    def stop(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*args, **options)

    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "step", stop)
    code, _, told = sample(run, model, "cut.mp4", "cache=taylor:2")
    assert code == 130 and "starts over" in told
    assert not list((tmp_path / "work").glob("*.latents.safetensors"))


def test_what_cannot_be_measured_is_told_before_it_is(model, run, monkeypatch):
    for given in (["count=3"], ["caches=[tea:1]"], ["output=x.txt"], ["judged=0"]):
        assert run("calibrate", model, *given)[0] == 2
    monkeypatch.setattr(os, "access", lambda *_: False)
    code, _, told = run("calibrate", model)
    assert code == 2 and "its folder cannot be written" in told and "output=FILE.json" in told


def test_the_fastest_row_that_pays_is_judged_beside_the_exact_videos(pipe, model):
    pipe.register_to_config(max_sequence_length=32)  # for prompts of the world
    pipe.save_pretrained(model)
    row = Row(
        setting=Setting(num_inference_steps=1),
        measured=Measured(
            error=0.1, most_error=0.2, psnr=30, least_psnr=25, speed=2, speed_low=2, speed_high=2
        ),
    )
    slower = replace(row, measured=replace(row.measured, speed_low=0.9))
    asked = CalibrateConfig(
        model=str(model), count=4, quality=4, judged=2, device="cpu", num_inference_steps=2
    )
    judged, left = calibrate.judged(asked, [row, slower])
    assert {"world.world.all", "world.dynamics.jerk"} <= judged.quality.keys()
    assert judged.quality["world.dynamics.jerk"]["difference"] != 0  # of two numbers of steps
    assert not left.quality  # it does not pay
    assert replace(judged, quality={}) == row
