"""Videos that score well without being good are named in the table and on the page."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t2v.config.evaluation import CompareConfig, EvalConfig
from t2v.config.world import WorldClipsConfig
from t2v.data.world_shards import load_clips
from t2v.errors import UserError
from t2v.evaluation.compare import compare
from t2v.evaluation.differences import difference
from t2v.evaluation.measure import load_networks
from t2v.evaluation.report.page import write_page
from t2v.evaluation.rows import MODEL, REAL, STILL
from t2v.evaluation.run import evaluate, measure_suite
from t2v.evaluation.samples import rows_of
from t2v.evaluation.suites import FOLDER, heldout_prompts, load_suite
from t2v.evaluation.types import blurred_copy, still_copy
from t2v.evaluation.verdicts import NO_DIFFERENCE, conclusion
from t2v.pipelines.t2v_generator import T2VGenerator
from t2v.world.render import render
from t2v.world.run import render_world

SIZE = (5, 32, 48)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "clips"
    words = {"num_frames": SIZE[0], "height": SIZE[1], "width": SIZE[2]}
    render_world(WorldClipsConfig(output=str(folder), count=24, workers=1, **words))
    return folder


@pytest.fixture
def report_of(pipe, training, tmp_path):
    """Returns report and page of videos for the prompts of a suite in which everything moves."""
    pipe.register_to_config(num_frames=SIZE[0])
    suite = load_suite("motion", 45, 0)
    suite = type(suite)(suite.name, suite.prompts[10:18], suite.topics[10:18], suite.scenes[10:18])
    config = EvalConfig(output=str(tmp_path), training=str(training))
    generator = T2VGenerator(pipe)
    nets = load_networks(config, generator)

    def run(make):
        real, _ = suite.real(*SIZE)
        rows = rows_of(suite, make(real), generator, seed=0)
        report = measure_suite(suite, rows, nets, [""] * len(real), config)
        whole = {"protocol": {"model": "x"}, "suites": {"motion": report}}
        shown = {"motion": {row: rows[row].video for row in (MODEL, REAL)}}
        write_page(tmp_path / "page.html", whole, shown, 8, most=3)
        return report, (tmp_path / "page.html").read_text()

    return run


def test_a_still_video_wins_on_consistency_and_is_marked(report_of):
    report, page = report_of(still_copy)
    rows = report["tables"]["dynamics"]
    assert rows[MODEL]["flickering"]["value"] == 1 > rows[REAL]["flickering"]["value"]
    assert rows[MODEL]["motion"]["value"] == 0 < rows[REAL]["motion"]["value"]
    assert rows[MODEL] == rows[STILL]
    assert "STILL VIDEO: " in page and '<span class="mark">still</span>' in page


def test_blurred_videos_are_marked(report_of):
    report, page = report_of(lambda real: blurred_copy(real, 9))
    assert (
        report["tables"]["dynamics"][MODEL]["jerk"]["value"]
        < (report["tables"]["dynamics"][REAL]["jerk"]["value"])
    )
    assert "BLURRED VIDEO: " in page and "STILL VIDEO" not in page


def test_copied_training_clips_are_marked(report_of, training):
    _, page = report_of(lambda real: load_clips(training).video[: len(real)])
    assert "COPIED CLIPS: 8 of 8" in page
    assert "0.00 from" in page


def test_honest_clips_are_not_marked(report_of):
    report, page = report_of(lambda real: real)
    assert report["warnings"] == []
    assert 'class="mark"' not in page


def test_every_suite_is_read_and_its_scenes_can_be_shown():
    names = [path.stem for path in FOLDER.glob("*.jsonl")]
    assert set(names) == {
        "attribute", "motion", "two-objects", "count", "order", "negation", "general",
    }  # fmt: skip
    for name in names:
        suite = load_suite(name, 512, 0)
        assert len(set(suite.prompts)) == len(suite.prompts) >= 32
        assert all(suite.topics)
        assert (suite.scenes is None) == (name == "general")
        if suite.scenes:
            render(suite.scenes[-1], 1, 16, 16)


def test_prompt_files_of_ones_own_are_suites_and_bad_ones_are_named(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("a dog\n\na cat\n")
    assert load_suite(str(file), 512, 0).prompts == ("a dog", "a cat")
    assert load_suite("world", 3, 5).prompts == tuple(heldout_prompts(3, 5)[1])
    bad = tmp_path / "bad.jsonl"
    for text, message in (
        ("", "holds no prompt"),
        ("{", "line 1: cannot be read as JSON"),
        ('{"topic": "x"}', 'needs a text under "prompt"'),
        ('{"prompt": "x", "truth": {"things": []}}', "no scene of the world"),
    ):
        bad.write_text(text)
        with pytest.raises(UserError, match=message):
            load_suite(str(bad), 512, 0)
    with pytest.raises(UserError, match=r"suites=nothing: no such suite.*motion"):
        load_suite("nothing", 512, 0)


@pytest.fixture
def model(pipe, tmp_path):
    pipe.register_to_config(num_frames=5, max_sequence_length=40)
    pipe.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_the_same_evaluation_again_samples_nothing_and_gives_the_same(model, tmp_path):
    wicked = tmp_path / "wicked.txt"
    wicked.write_text("\n".join(["<script>alert(1)</script>", "a {{ 7 * 7 }} ball"]))
    words = {"model": model, "suites": ("world", str(wicked)), "count": 5}
    first = evaluate(EvalConfig(**words, output=str(tmp_path / "a")))
    clips = sorted(path.stat().st_mtime_ns for path in (tmp_path / "a" / "clips").iterdir())
    report = (tmp_path / "a" / "eval.json").read_text()
    assert evaluate(EvalConfig(**words, output=str(tmp_path / "a"))) == first
    assert (tmp_path / "a" / "eval.json").read_text() == report
    assert sorted(p.stat().st_mtime_ns for p in (tmp_path / "a" / "clips").iterdir()) == clips
    page = (tmp_path / "a" / "page.html").read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script>alert" not in page
    assert "a {{ 7 * 7 }} ball" in page and page.count("data:video/mp4;base64,") == 5 * 2 + 2
    assert "http" not in page.replace("http-equiv", "")

    read = json.loads(report)
    assert read["protocol"]["weights"] and read["protocol"]["size"] == [5, 32, 48]
    for row in ("model", "real clips through the VAE", "real clips"):
        cell = read["suites"]["world"]["tables"]["dynamics"][row]["motion"]
        assert cell["n"] + cell.get("off_scale", 0) == 5
    off = [video["off_scale"] for video in read["suites"]["world"]["videos"]]
    assert off == [["dynamics.motion", "dynamics.warp_error"]] * 5  # an untrained model's noise
    markdown = (tmp_path / "a" / "eval.md").read_text()
    assert "| 5 off the scale |" in markdown and "<td>off the scale</td>" in page

    a, kept = str(tmp_path / "a"), {"clips_kept": str(tmp_path / "a" / "clips")}
    evaluate(EvalConfig(**words, **kept, output=str(tmp_path / "b")))
    text = compare(CompareConfig(runs=(a, str(tmp_path / "b")), output=model))
    assert text.count(NO_DIFFERENCE) > 6 and "is better" not in text
    other = words | {"suites": ("world",), "count": 2}
    evaluate(EvalConfig(**other, output=str(tmp_path / "c"), seed=1))
    with pytest.raises(UserError, match="The prompts of suite world differ"):
        compare(CompareConfig(runs=(a, str(tmp_path / "c")), output=model))
    with pytest.raises(UserError, match=r"Make it: t2v eval MODEL -o"):
        compare(CompareConfig(runs=(a, str(tmp_path / "x")), output=model))


def test_of_several_runs_the_cheapest_that_is_not_worse_is_named(model, tmp_path):
    a = str(tmp_path / "a")
    evaluate(EvalConfig(model=model, suites=("order",), count=12, output=a))
    report, runs = json.loads(Path(a, "eval.json").read_text()), [a]
    for guidance, loss in ((1.0, 0.0), (0.0, 0.5)):  # cheaper; as cheap, and worse
        report["protocol"]["guidance"] = guidance
        for video in report["suites"]["order"]["videos"]:
            video["values"]["dynamics.subject"] -= loss
        runs.append(str(tmp_path / str(guidance)))
        Path(runs[-1]).mkdir()
        Path(runs[-1], "eval.json").write_text(json.dumps(report))
    text = compare(CompareConfig(runs=tuple(runs), output=str(tmp_path / "c")))
    lines = [line for line in text.splitlines() if line.startswith("| dynamics.subject |")]
    assert ["is better" in line for line in lines[:2]] == [False, True]
    assert lines[2].endswith("worse |") and lines[2].count("worse") == 1
    assert "Not shown to be worse than A in any metric: A, B. The cheapest is B: steps" in text
    read = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert set(read["suites"]["order"]["columns"]) == {"B", "C"}
    page = (tmp_path / "c" / "page.html").read_text()
    assert page.count("data:video/mp4;base64,") == 3 * 12 and "in short" in page
    with pytest.raises(UserError, match="name 2 to 26 folders"):
        CompareConfig(runs=(runs[0],), output="c")


def test_a_real_difference_is_shown_and_which_way_is_better(tmp_path):
    a = torch.rand(40, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    better = difference(a, a + 0.1 + 0.02 * a, generator)
    assert better["low"] > 0 and better["chance"] < 0.001
    assert conclusion(better["difference"], better["chance"], "higher") == "B is better"
    assert conclusion(better["difference"], better["chance"], "lower") == "A is better"
    assert conclusion(better["difference"], better["chance"], "") == "B has more"
    equal = difference(a, a, generator)
    assert equal["difference"] == 0 and equal["low"] is None  # 40 times 0 does not prove 0
    same = difference(a, a[torch.randperm(40, generator=generator)], generator)
    assert conclusion(same["difference"], same["chance"], "higher") == NO_DIFFERENCE


@pytest.mark.parametrize("offload", ["group", "leaf"])
def test_weights_that_wait_on_the_disk_give_the_same_report_and_keys(model, tmp_path, offload):
    words = {"model": model, "count": 2, "num_inference_steps": 1, "device": "cpu"}
    words |= {"metrics": ("reconstruction", "given", "alignment")}
    reports = []
    for name in ("none", offload):
        evaluate(EvalConfig(**words, offload=name, output=str(tmp_path / name)))
        reports.append(json.loads((tmp_path / name / "eval.json").read_text()))
    plain, held = reports
    assert held["suites"] == plain["suites"] and len(plain["suites"]["world"]["videos"]) == 2
    assert held["protocol"]["weights"] == plain["protocol"]["weights"]
    assert held["protocol"].pop("offload") == offload
    films = [
        load_file(*sorted((tmp_path / name / "clips").iterdir())) for name in ("none", offload)
    ]
    assert all(torch.equal(film, films[1][key]) for key, film in films[0].items())


def test_kept_videos_of_eight_bits_are_not_those_of_all_bits(model, tmp_path):
    words = {"model": model, "count": 1, "num_inference_steps": 1, "device": "cpu"}
    words |= {"metrics": ("reconstruction",), "offload": "group", "clips_kept": str(tmp_path / "c")}
    keys = set()
    for quantize in ("none", "transformer=fp8"):
        evaluate(EvalConfig(**words, quantize=quantize, output=str(tmp_path / quantize)))
        report = json.loads((tmp_path / quantize / "eval.json").read_text())
        keys.add(report["suites"]["world"]["videos"][0]["key"])
    assert len(keys) == 2
