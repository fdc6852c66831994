"""`t2v eval versus=[...]`: two settings of a model compared by one command."""

import json

import pytest

from t2v.cli import main
from t2v.config.evaluation import EvalConfig
from t2v.config.load import load_config
from t2v.errors import UserError
from t2v.evaluation.versus import variants


@pytest.fixture
def run(pipe, tmp_path, monkeypatch, capsys):
    pipe.register_to_config(num_frames=5, num_inference_steps=2, max_sequence_length=40)
    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = main(["eval", "model", "-o", "steps", "count=2", "device=cpu", *words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_one_command_evaluates_two_settings_and_compares_them(run, tmp_path):
    words = ["teacher=model", "metrics=[teacher]"]
    words += ['versus=["num_inference_steps=1", "num_inference_steps=1 guidance_scale=1"]']
    code, out, err = run(*words)
    assert code == 0, err
    assert "A: steps, steps 2" in out and "| teacher.psnr | 100 |" in out
    assert "B: steps/num_inference_steps-1, steps 1" in out
    assert "C: steps/num_inference_steps-1-guidance_scale-1, steps 1, guidance 1" in out
    folder = tmp_path / "steps"
    assert (folder / "compared" / "vote.html").exists()
    films = sorted(path.stat().st_mtime_ns for path in (folder / "clips").iterdir())
    for name in ("", "num_inference_steps-1"):
        report = json.loads((folder / name / "eval.json").read_text())
        assert report["protocol"]["clips"] == str((folder / "clips").resolve())
    assert run(*words)[:2] == (0, out)  # and samples nothing
    assert films == sorted(path.stat().st_mtime_ns for path in (folder / "clips").iterdir())


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["count=3"], "versus=count=3: count is the same in all that is compared"),
        (["steps"], "versus=steps: 'steps' is not a setting"),
        (["num_inference_step=3"], "Did you mean num_inference_steps"),
        (["num_inference_steps=0"], "versus=num_inference_steps=0: "),
        (["dtype='fp32"], "Close the quotation"),
        ([" "], "a text is empty"),
        (["dtype=fp32", "dtype=fp32"], "asked for twice"),
        (["dtype=fp32"] * 26, "26 texts, and 25 fit"),
    ],
)
def test_what_cannot_be_compared_is_refused(texts, words):
    with pytest.raises(UserError, match=words):
        variants(EvalConfig(output="o", versus=tuple(texts)))


def test_one_text_stands_for_a_list_of_one():
    for given in ("num_inference_steps=4 dtype=fp32", '["num_inference_steps=4 dtype=fp32"]'):
        (other,) = variants(load_config(EvalConfig, None, ["output=o", f"versus={given}"]))
        assert (other.num_inference_steps, other.dtype) == (4, "fp32")


def test_all_other_settings_stay_as_they_are():
    config = EvalConfig(output="o", count=9, suites=("motion", "story"), num_inference_steps=3)
    found = variants(EvalConfig(**vars(config) | {"versus": ("windows.overlap=1",)}))
    (each,) = found
    assert (each.count, each.suites, each.num_inference_steps) == (9, ("motion", "story"), 3)
    assert each.windows.overlap == 1 and each.versus == ()
    assert (each.output, each.clips_kept) == ("o/windows.overlap-1", "o/clips")
