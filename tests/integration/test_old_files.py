"""Files of every format, as commit 85fb36c wrote them, load today; runs go on from them.

They lie in `old_files/files.tar.xz`, made by `old_files/make.py`, with what that commit gave when
it went on from them.
"""

import json
import os
import re
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from unchanged.compare import HERE as UNCHANGED

from t2v import T2VPipeline
from t2v.cli import main
from t2v.cli.commands import COMMANDS
from t2v.config.load import load_config

ARCHIVE = Path(__file__).parent / "old_files" / "files.tar.xz"
RUNS = {
    "vae": "train-vae",
    "dit": "train",
    "dit-films": "train",
    "lora": "finetune",
    "full": "finetune",
    "toy": "finetune",
    "soft": "finetune",
    "peft": "finetune",
    "scorer": "scorer",
}
SETTINGS = {
    **{f"{run}/config.yaml": command for run, command in RUNS.items()},
    **{f"{run}/checkpoint-000002/training/config.yaml": each for run, each in RUNS.items()},
    "clips/config.yaml": "world",
    "make-text/config.yaml": "world text",
    "make-oracle/config.yaml": "world oracle",
    "curated/config.yaml": "curate",
    "encoded/config.yaml": "encode",
    "frames/config.yaml": "train-vae",
    "eval-1/config.yaml": "eval",
    "likeness/config.yaml": "eval footage",
    "compared/config.yaml": "eval compare",
    "settings/sample.yaml": "sample",
    "settings/bench.yaml": "bench",
    "settings/bench-curate.yaml": "bench curate",
    "settings/convert.yaml": "convert",
}


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old") / "files"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(autouse=True)
def work(extracted, tmp_path, monkeypatch):
    """The folder at work holds the old files."""
    folder = shutil.copytree(extracted, tmp_path / "work")
    for report in folder.glob("eval-*/eval.json"):  # names its videos by their absolute place
        report.write_text(re.sub(r"/tmp/\w+(?=/eval-)", str(folder), report.read_text()))
    monkeypatch.chdir(folder)


def t2v(*words):
    """Run a command, which must succeed."""
    assert main(list(words)) == 0, words


def rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def contents(*folders):
    """The bytes of every file below some folders that is not a lock."""
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*"))]
    return {p: p.read_bytes() for p in files if p.is_file() and p.suffix != ".lock"}


def flat(values, prefix=""):
    found = {}
    for name, value in values.items():
        inner = isinstance(value, dict)
        found |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def frames(path):
    with av.open(path) as file:
        shown = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    return np.stack(shown).astype(float)


def latents(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe("a red ball", generator=generator, output_type="latent").frames


def assert_same_video(path, other):
    """Videos of one recipe differ by the rounding of processors, and by what their coding makes of
    it."""
    ours, theirs = frames(path), frames(other)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 4
    assert theirs.std() > 10


def test_old_settings_mean_the_same():
    files = {path.as_posix() for path in [*Path().rglob("config.yaml"), *Path().glob("settings/*")]}
    assert files == {*SETTINGS, "eval-2/config.yaml"}
    for file, command in SETTINGS.items():
        loaded = load_config(COMMANDS[command].schema, Path(file), [])
        now = flat(json.loads(json.dumps(asdict(loaded))))
        then = flat(yaml.safe_load(Path(file).read_text()))
        kept = then.keys() & now.keys()
        for name in getattr(type(loaded), "ONE_OR_MORE", ()):  # one stands for a list of one
            if now[name] == [then.get(name)]:
                then[name] = now[name]
        assert {name: now[name] for name in kept} == {name: then[name] for name in kept}, file
        assert len(kept) >= 2, file


def test_an_old_file_of_settings_is_planned():
    t2v("plan", "train-vae", "--config", "vae/config.yaml", "tflops=1", "bandwidth=1", "memory=1")


@pytest.mark.parametrize(("run", "command"), RUNS.items())
def test_a_training_goes_on_from_its_old_checkpoint_with_what_was_encoded(run, command):
    for media in [*Path("clips").glob("clips-*.safetensors"), *Path("curated").rglob("*.mp4")]:
        if command not in ("train-vae", "scorer"):  # who learn from pixels
            media.unlink()
    cached = contents("clips", "encoded"), list(Path(run).glob("prior-*"))
    told = rows(f"{run}/metrics.jsonl")
    t2v(command, "--config", f"{run}/config.yaml", "steps=4")
    assert Path(run, "checkpoint-000004", "manifest.json").is_file()
    now = rows(f"{run}/metrics.jsonl")
    assert now[:2] == told
    then = json.loads(Path("continued.json").read_text())[run]
    for ours, theirs in zip(now[2:], then, strict=True):
        kept = {name: ours[name] for name in theirs}
        assert kept == pytest.approx(theirs, rel=5e-3, abs=1e-5)
    assert (contents("clips", "encoded"), list(Path(run).glob("prior-*"))) == cached


def test_frames_of_films_that_were_read_are_not_read_again():
    shards = {path: path.read_bytes() for path in Path("frames").glob("*.safetensors")}
    assert shards and not Path("films").exists()
    shutil.rmtree("curated/clips")
    t2v("train-vae", "--config", "frames/config.yaml", "output=new", "steps=1")
    assert len(rows("new/metrics.jsonl")) == 1
    assert {path: path.read_bytes() for path in Path("frames").glob("*.safetensors")} == shards


@pytest.mark.parametrize("start", ["dit", "dit/checkpoint-000002"])
def test_a_training_begins_with_an_old_run(start):
    words = ("output=new", "steps=0", f"start_from={start}")
    t2v("train", "--config", "dit/config.yaml", *words)
    new, then = (
        T2VPipeline.from_pretrained(folder).transformer.state_dict()
        for folder in ("new/checkpoint-000000", "dit/checkpoint-000002")
    )
    assert all(torch.equal(new[name], weight) for name, weight in then.items())


@pytest.mark.parametrize("run", ["dit", "lora", "full", "toy", "soft", "peft", "dit-films"])
def test_an_old_checkpoint_is_a_pipeline(run):
    pipe = DiffusionPipeline.from_pretrained(f"{run}/checkpoint-000002")
    assert isinstance(pipe, T2VPipeline)
    assert latents(pipe).isfinite().all()


def test_a_converted_folder_that_names_modules_is_a_pipeline():
    index = json.loads(Path("converted/model_index.json").read_text())
    assert index["transformer"] == ["t2v.models.transformer", "T2VTransformer3DModel"]
    assert isinstance(DiffusionPipeline.from_pretrained("converted"), T2VPipeline)
    words = ("--frames", "5", "--height", "16", "--width", "16", "--steps", "1", "-o", "new.mp4")
    t2v("sample", "a ball", "--model", "converted", *words)
    assert frames("new.mp4").shape == (5, 16, 16, 3)


def test_an_old_lora_makes_of_the_base_what_was_saved_with_it():
    base, tuned = (
        T2VPipeline.from_pretrained(f"{run}/checkpoint-000002") for run in ("dit", "lora")
    )
    plain = latents(base)
    base.load_lora_weights("lora/checkpoint-000002")
    torch.testing.assert_close(latents(base), latents(tuned), atol=1e-4, rtol=1e-4)
    assert (latents(base) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("recipe", ["whole.mp4", "whole.json", "adapted.mp4", "best.mp4"])
def test_an_old_recipe_makes_its_video_again(recipe):
    t2v("sample", "--recipe", recipe, "-o", "again.mp4")
    assert_same_video("again.mp4", Path(recipe).with_suffix(".mp4"))
    new, then = (json.loads(Path(p).with_suffix(".json").read_text()) for p in ("again", recipe))
    for told in (new, then):
        del told["versions"]
        for place in ("output", "sheet", "gif", "preview_every"):  # of one run
            del told["settings"][place]
    assert len(new.pop("scheduler")) == 64  # recipes of before have none
    assert new["settings"].items() >= then["settings"].items()
    assert {**new, "settings": 0} == {**then, "settings": 0}


def test_an_old_interrupted_video_is_finished():
    t2v("sample", "--resume", "stopped.latents.safetensors")
    assert_same_video("stopped.mp4", "whole.mp4")  # of the same seed
    assert not Path("stopped.latents.safetensors").exists()


def test_an_old_interrupted_choice_is_finished():
    t2v("sample", "--resume", "choice.latents.safetensors")
    now, then = (json.loads(Path(f"{name}.json").read_text()) for name in ("choice", "best"))
    assert now["choice"]["scores"] == pytest.approx(then["choice"]["scores"], abs=1e-3)
    assert now["settings"]["seed"] == then["settings"]["seed"]
    assert_same_video("choice.mp4", "best.mp4")


def test_old_evaluations_are_compared_as_then():
    then = json.loads(Path("compared/compare.json").read_text())["suites"]
    t2v("eval", "compare", "eval-1", "eval-2", "-o", "new")
    now = json.loads(Path("new/compare.json").read_text())["suites"]
    assert now.keys() == then.keys()
    for suite in then:
        ours, theirs = now[suite]["columns"]["B"], then[suite]["columns"]["B"]
        assert ours.keys() >= theirs.keys()
        for name, column in theirs.items():
            kept = {figure: ours[name][figure] for figure in ("a", "b", "difference", "n")}
            assert kept == {figure: column[figure] for figure in kept}


def test_an_old_evaluation_samples_nothing_again():
    before = contents("eval-1/clips")
    then = json.loads(Path("eval-1/eval.json").read_text())["suites"]["motion"]
    t2v("eval", "--config", "eval-1/config.yaml")
    assert contents("eval-1/clips") == before
    now = json.loads(Path("eval-1/eval.json").read_text())["suites"]["motion"]
    assert [video["key"] for video in now["videos"]] == [video["key"] for video in then["videos"]]
    for ours, theirs in zip(now["videos"], then["videos"], strict=True):
        for name, value in theirs["values"].items():  # null where it could not be measured
            near = value if value is None else pytest.approx(value, rel=1e-3, abs=1e-3)
            assert ours["values"][name] == near, name


def test_an_old_evaluation_of_films_is_made_again():
    then = json.loads(Path("likeness/likeness.json").read_text())
    before = contents("encoded/latents")
    t2v("eval", "footage", "--config", "likeness/config.yaml")
    now = json.loads(Path("likeness/likeness.json").read_text())
    assert now["rows"].keys() == then["rows"].keys() and now["chance"] == then["chance"]
    assert contents("encoded/latents") == before


def test_old_figures_of_a_bench_may_be_replaced(capsys):
    for file, refused in (("bench.json", "model=nowhere: "), ("whole.json", "json=whole.json ")):
        assert main(["bench", "model=nowhere", f"json={file}"]) == 2
        assert refused in capsys.readouterr().err


def test_an_old_world_is_whole():
    before = contents("clips")
    t2v("world", "--config", "clips/config.yaml")
    assert contents("clips") == before


def test_an_old_curation_goes_on_without_looking_at_its_films_again():
    Path("films").mkdir()
    for given in sorted((UNCHANGED / "footage").glob("film-[024].*")):
        film = Path("films", given.name)
        content = given.read_bytes()
        film.write_bytes(content if given.suffix == ".txt" else b"\0" * len(content))
        os.utime(film, (1_700_000_000, 1_700_000_000))
    before = contents("curated/work", "curated/clips", "curated/thumbs")
    then = rows("curated/manifest.jsonl")
    t2v("curate", "--config", "curated/config.yaml")
    now = rows("curated/manifest.jsonl")
    for row in (*then, *now):
        origin = row["cut_from"]
        origin["path"] = Path(origin["path"]).name
    assert now == then
    after = contents("curated/work", "curated/clips", "curated/thumbs")
    log = Path("curated", "work", "caption.jsonl")  # names clips by their absolute paths
    assert set(before.pop(log).splitlines()) <= set(after.pop(log).splitlines())
    assert after == before


def test_old_clips_are_encoded_once():
    before = contents("encoded/latents")
    t2v("encode", "--config", "encoded/config.yaml")
    assert contents("encoded/latents") == before
