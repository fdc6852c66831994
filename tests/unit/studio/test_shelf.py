"""The folder of runs: what is found in it, and that nothing outside of it is."""

import json

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from t2v.serve.errors import Refused
from t2v.studio.shelf import Shelf, own_file


def training(folder):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("steps: 3\n")
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n")
    return folder


@pytest.fixture
def shelf(tmp_path):
    training(tmp_path / "runs" / "night" / "a")
    training(tmp_path / "runs" / "night" / "a" / "checkpoint-000001" / "inner")
    training(tmp_path / "runs" / "b <i>&?#")
    training(tmp_path / "secret")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "runs" / "steps").mkdir()
    (tmp_path / "runs" / "steps" / "eval.json").symlink_to(tmp_path / "secret" / "metrics.jsonl")
    return Shelf(tmp_path / "runs")


def test_runs_are_found_in_folders_of_folders_and_never_through_links(shelf):
    assert {run.name for run in shelf.runs("training")} == {"night/a", "b <i>&?#"}
    assert shelf.runs("evaluation", "comparison") == []
    assert Shelf(shelf.folder / "not there").runs("training") == []


@pytest.mark.parametrize(
    "name", ["../secret", "night/../night/a", "link", "", ".", "/", "night", "night/a/", "\0"]
)
def test_a_name_is_looked_up_and_not_read_as_a_path(name, shelf):
    with pytest.raises(Refused) as refused:
        shelf.run("training", name)
    assert refused.value.status == 404


def test_a_file_of_a_run_that_is_a_link_is_refused(shelf, tmp_path):
    run = shelf.run("training", "night/a")
    assert own_file(run, "metrics.jsonl").is_file()
    (run.folder / "sheets").symlink_to(tmp_path / "secret")
    (run.folder / "page.html").symlink_to(tmp_path / "secret" / "config.yaml")
    for names in (("sheets", "config.yaml"), ("page.html",), ("none",)):
        with pytest.raises(Refused):
            own_file(run, *names)
