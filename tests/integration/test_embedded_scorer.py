"""The scorer that comes with t2v: what it weighs, and that it sees what its card says."""

import json
from pathlib import Path

import pytest
import torch

from t2v.evaluation.scorer_benchmark import benchmark
from t2v.evaluation.suites import heldout_prompts
from t2v.nets.scorer import load_scorer
from t2v.world.render import render

FOLDER = Path(__file__).parents[2] / "assets" / "world-scorer"


@pytest.fixture(scope="module")
def report():
    scenes, captions = heldout_prompts(64, seed=0)
    video = torch.stack([render(scene)[0] for scene in scenes])
    return benchmark(load_scorer(str(FOLDER)), video, captions, seed=0)


def test_it_finds_the_clip_of_a_caption_among_64(report):
    assert report["video_r1"]["share"] > 0.8 and report["text_r1"]["share"] > 0.8


def test_it_sees_time_and_single_words(report):
    for name in ("counterfactual", "shuffle", "reverse"):
        assert report[name]["n"] > 35 and report[name]["share"] > 0.85


def test_its_folder_holds_a_card_with_the_figures_of_its_report_and_at_most_6_5_mb():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6.5e6
    card = (FOLDER / "README.md").read_text()
    told = json.loads((FOLDER / "report.json").read_text())
    for name, each in told.items():
        if isinstance(each, dict) and each["n"]:
            assert f"| {name} | {100 * each['share']:.1f} [" in card
