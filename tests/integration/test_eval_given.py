"""`t2v eval` on suites that give a part of each clip: a tiny model, all rows, kept and resumed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t2v.config.evaluation import CompareConfig, EvalConfig
from t2v.errors import UserError
from t2v.evaluation import samples
from t2v.evaluation.compare import compare
from t2v.evaluation.parts import given_of
from t2v.evaluation.rows import AS_GIVEN, CEILING, CHANCE, FADE, HOLD, MODEL, REAL, TEXT
from t2v.evaluation.run import evaluate
from t2v.evaluation.samples import load_model
from t2v.evaluation.suites import load_suite
from t2v.evaluation.tasks import TASKS
from t2v.evaluation.visuals import check_takes, visual_inputs
from t2v.models.transformer import T2VTransformer3DModel

COPIES = {
    **dict.fromkeys(("first", "continue"), (HOLD,)),
    **dict.fromkeys(("ends", "between", "interpolate"), (HOLD, FADE)),
    **dict.fromkeys(("region", "edit"), (AS_GIVEN,)),
}


@pytest.fixture
def config(pipe, tmp_path):
    """Settings for a model that takes everything: 9 frames of 32x48, one step."""
    given = {"conditioning": "tokens", "picture_tokens": True, "references": 1}
    transformer = T2VTransformer3DModel.from_config(pipe.transformer.config, **given)
    transformer.load_state_dict(pipe.transformer.state_dict(), strict=False)
    pipe.register_modules(transformer=transformer.eval())
    pipe.register_to_config(max_sequence_length=32)
    pipe.save_pretrained(tmp_path / "model")
    return EvalConfig(
        model=str(tmp_path / "model"),
        output=str(tmp_path / "out"),
        suites=tuple(TASKS),
        count=2,
        perceptual=None,
        num_inference_steps=1,
        guidance_scale=1.0,
        device="cpu",
    )


def read(folder):
    return json.loads(Path(folder, "eval.json").read_text())


def test_every_suite_has_its_rows_and_a_second_run_samples_nothing(config, monkeypatch):
    asked = []

    def watched(sample):
        def watch(generator, prompts, *rest, **others):
            asked.extend(prompts)
            return sample(generator, prompts, *rest, **others)

        return watch

    monkeypatch.setattr(samples, "sample_videos", watched(samples.sample_videos))
    text = evaluate(config)
    report = read(config.output)
    for name, suite in report["suites"].items():
        rows = suite["tables"].get("given", {})
        beside = [MODEL, CEILING, REAL, TEXT, *COPIES[name], CHANCE] if name in COPIES else []
        assert list(rows) == beside, name
        assert all(rows[row]["psnr"]["value"] > 0 for row in rows)
        assert f"## {name}, 2 prompts" in text and len(suite["videos"]) == 2
        assert suite["ranking"] == ("given.psnr" if beside else "dynamics.subject") or not beside
    assert "nothing given" in text and HOLD in report["rows"]
    page = Path(config.output, "page.html").read_text()
    assert page.count("<video ") == 2 * 4 * len(TASKS)  # model, given, text only, real
    # the prompts alone once for the six suites of the same scenes, then each suite; region, edit
    # and reference ask for others; a picture
    assert len(asked) == 2 * (1 + 3 + len(TASKS) + 1)
    asked.clear()
    evaluate(replace(config, suites=("continue", "region")))
    again = read(config.output)["suites"]
    assert not asked and again == {name: report["suites"][name] for name in again}


def test_what_is_given_is_in_the_videos(config):
    evaluate(replace(config, suites=("first", "edit"), strength=0.2))
    tables = {name: each["tables"]["given"] for name, each in read(config.output)["suites"].items()}
    first = tables["first"]
    assert abs(first[MODEL]["kept_over_vae"]["value"]) < 1
    assert first[TEXT]["kept_over_vae"]["value"] < -1
    far = read(config.output)
    evaluate(replace(config, suites=("edit",), strength=1.0))
    wide = read(config.output)["suites"]["edit"]
    assert wide["videos"][0]["key"] != far["suites"]["edit"]["videos"][0]["key"]
    near = tables["edit"][MODEL]["kept"]["value"]
    assert near > wide["tables"]["given"][MODEL]["kept"]["value"]


def test_two_models_are_compared_on_suites_that_give_something(config, tmp_path):
    suites = ("continue", "region")
    runs = tuple(str(tmp_path / name) for name in "ab")
    for run, scale in zip(runs, (1.0, 3.0), strict=True):
        evaluate(replace(config, output=run, suites=suites, guidance_scale=scale))
    text = compare(CompareConfig(runs=runs, output=str(tmp_path / "compared")))
    assert "## continue, 2 prompts" in text and "| given.psnr |" in text
    assert (tmp_path / "compared/vote.html").read_text().count("<section ") == 4


def test_only_the_metrics_asked_for_are_measured(config):
    asked = replace(config, suites=("first", "world"), metrics=("given", "dynamics"), count=1)
    evaluate(asked)
    found = {name: list(each["tables"]) for name, each in read(config.output)["suites"].items()}
    assert found == {"first": ["given", "dynamics"], "world": ["dynamics"]}
    evaluate(replace(asked, suites=("first",), metrics=("given",)))
    assert list(read(config.output)["suites"]["first"]["tables"]) == ["given"]
    for bad, message in (
        ({"metrics": ("psnr",)}, r"metrics=psnr: no such metric\. Allowed: world, given"),
        ({"metrics": ("given",)}, r"none of them is for suites=\[world\]"),
        ({"metrics": ("given", "fidelity"), "training": "x"}, "Add dynamics to metrics"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(replace(asked, **bad))


def test_other_sizes_and_lengths_can_be_asked_for(config):
    evaluate(replace(config, suites=("continue",), num_frames=13, height=48, width=32))
    report = read(config.output)
    assert report["protocol"]["size"] == [13, 48, 32]
    with pytest.raises(
        UserError, match=r"suites=\[between\].*of 5 frames none is left.*num_frames=9"
    ):
        evaluate(replace(config, suites=("between",), num_frames=5))


def test_a_model_that_does_not_take_what_is_given_is_refused_before_it_samples(config, pipe):
    given = {"conditioning": "none", "picture_tokens": False}
    plain = T2VTransformer3DModel.from_config(pipe.transformer.config, **given)
    pipe.register_modules(transformer=plain.eval())
    pipe.save_pretrained(config.model)
    generator = load_model(config, "t2v eval")
    check_takes(generator, [load_suite("edit", 1, 0), load_suite("world", 1, 0)])
    for name in ("first", "continue", "region", "between", "via_image"):
        with pytest.raises(
            UserError, match=rf"suites=\[{name}\]: .*does not take .*strength, video"
        ):
            evaluate(replace(config, suites=(name,)))
    assert not Path(config.output, "clips").exists()


def test_the_model_sees_only_what_the_suite_gives():
    """Of the frames that are to be made, nothing of the truth is handed over."""
    for name in ("first", "ends", "continue", "between", "interpolate"):
        suite = load_suite(name, 2, 0)
        real, mask = suite.real(9, 32, 32)
        given = given_of(suite, real, mask, (8, 4))
        made = given.made.unsqueeze(-1)
        other = torch.where(made, 255 - given.clip, given.clip)
        ours, theirs = (visual_inputs(name, replace(given, clip=clip)) for clip in (real, other))
        for one, two in zip(ours, theirs, strict=True):
            assert one.names() == two.names() and one.names()
            for field in one.names():
                pair = getattr(one, field), getattr(two, field)
                if field == "conditions":
                    assert [each.frame_index for each in pair[0]] == [
                        each.frame_index for each in pair[1]
                    ]
                    pair = tuple([each.frames for each in side] for side in pair)
                    assert all((a == b).all() for a, b in zip(*pair, strict=True))
                else:
                    assert (pair[0] == pair[1]).all()
    suite = load_suite("region", 2, 0)
    real, mask = suite.real(9, 32, 32)
    given = given_of(suite, real, mask, (8, 4))
    for index, each in enumerate(visual_inputs("region", given)):
        white = torch.from_numpy(each.mask[..., 0] > 127)
        assert (white == given.made[index, 0]).all()
        inside = torch.from_numpy(each.video)[:, white]
        assert (inside.int() - real[index][:, white].int()).abs().max() > 50  # another thing
