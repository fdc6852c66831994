"""`t2v curate`: footage of all kinds in, a manifest with a verdict for everything out."""

import csv
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from t2v.cli import main
from t2v.config.curation import STAGES, CurateConfig
from t2v.curation.run import curate
from t2v.footage.frames import probe
from t2v.io.manifest import read_manifest
from t2v.io.video import write_video

ROOT = Path(__file__).parents[2]
ODD = 'a "quoted"\n$(touch owned).mp4'
BYTES = "ünï\udcffcode; rm.mp4"  # one byte of it is no text
OTHERS = ("caption", "topics", "balance")  # what is tested elsewhere
SKIP = tuple(name for name in STAGES if name in OTHERS)
SETTINGS = ["scenes.min_seconds=0.5", "quality.min_sharpness=0", f"skip=[{','.join(SKIP)}]"]


@pytest.fixture(scope="module")
def footage(tmp_path_factory, scene) -> Path:
    """Names that a shell would trip over, a cut, a copy, a frozen film, damage, and a table."""
    folder = tmp_path_factory.mktemp("given") / "foot age"
    (folder / "sub 'dir'").mkdir(parents=True)
    films = {
        ODD: scene(1, 36, pan=2),
        f"sub 'dir'/{BYTES}": np.concatenate([scene(2, 30, pan=1), scene(3, 30, pan=3)]),
        "zcopy.mp4": scene(1, 30, pan=2)[:, :, ::-1],
        "frozen.mp4": np.repeat(scene(4, 1), 36, axis=0),
        "black.mp4": np.zeros((60, 144, 256, 3), np.uint8),
    }
    for name, film in films.items():
        write_video(folder / name, np.ascontiguousarray(film), 24)
    whole = (folder / "zcopy.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.mp4").write_text("no video, just words\n" * 40)
    (folder / "readme.txt").write_text("not footage")
    with (folder / "about.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["File", "Repo", "Licence", "Caption"])
        table.writerow([ODD, "somebody/films", "CC0-1.0", "a <b>ball"])
    return folder


def command(footage: Path, output: Path, *extra: str) -> list[str]:
    return ["curate", str(footage), "-o", str(output), *SETTINGS, *extra]


def rows(output: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for line in (output / "manifest.jsonl").read_text().strip().split("\n"):
        row = json.loads(line)
        found.setdefault(Path(row["path"]).name, []).append(row)
    return found


def test_every_file_gets_its_verdict_and_the_counts_add_up(footage, tmp_path, capsys, read_frames):
    output = tmp_path / "out put"
    before = {path: path.stat().st_mtime_ns for path in footage.rglob("*")}
    assert main(command(footage, output, "workers=2")) == 0
    assert capsys.readouterr().out.strip() == str(output / "manifest.jsonl")
    found = rows(output)
    verdicts = {name: [row["dropped"] for row in each] for name, each in found.items()}
    assert verdicts == {
        ODD: [""],
        BYTES: ["", ""],
        "zcopy.mp4": ["dedup"],
        "frozen.mp4": ["motion"],
        "black.mp4": ["quality"],
        "half.mp4": ["failed"],
        "empty.mp4": ["failed"],
        "notes.mp4": ["failed"],
    }
    assert all(row["reason"] for each in found.values() for row in each if row["dropped"])
    first, second = found[BYTES]
    assert (first["num_frames"], second["num_frames"]) == (30, 30)
    assert first["end"] == second["start"] == pytest.approx(30 / 24)
    told = found[ODD][0]
    assert (told["source"], told["license"]) == ("somebody/films", "CC0-1.0")
    assert told["caption"] == "a <b>ball"
    stats = json.loads((output / "stats.json").read_text())
    assert stats["clips"] == stats["kept"] + stats["dropped"] + stats["failed"] == 9
    assert {"t2v", "av", "ffmpeg", "numpy"} <= set(stats["judges"]["versions"])
    assert stats["judges"]["settings"] in (output / "DATA.md").read_text()
    assert {path: path.stat().st_mtime_ns for path in footage.rglob("*")} == before
    assert not list(tmp_path.rglob("owned")) and not Path("owned").exists()
    kept = [clip for clip in read_manifest(output) if not clip.dropped]
    for clip in kept:
        assert len(read_frames(clip.path, clip.start, clip.end)) == clip.num_frames
        assert (output / "thumbs" / f"{clip.extra['id']}.jpg").is_file()


def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(footage, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(command(footage, whole, "workers=1")) == 0
    process = start(command(footage, broken, "workers=1"))
    deadline = time.monotonic() + 300
    while len(list((broken / "work").glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in (broken / "work").glob("*.json")}
    assert 3 <= len(done) < 8
    assert not (broken / "manifest.jsonl").exists()
    assert main(command(footage, broken, "workers=1")) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done  # nothing was done again
    same = [(folder / "manifest.jsonl").read_bytes() for folder in (whole, broken)]
    assert same[0] == same[1]


@pytest.mark.slow
def test_killed_at_twenty_random_instants_it_ends_with_the_same_bytes(footage, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    began = time.monotonic()
    finished(command(footage, whole))
    took = time.monotonic() - began
    chance = random.Random(0)
    for _ in range(20):
        process = start(command(footage, broken))
        time.sleep(chance.uniform(0.3, 1.0) * took)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finished(command(footage, broken))
    same = [(folder / "manifest.jsonl").read_bytes() for folder in (whole, broken)]
    assert same[0] == same[1]


def start(words: list[str], **options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": environment}
    return subprocess.Popen([sys.executable, "-m", "t2v", *words], **quiet, **options)


def finished(words: list[str]) -> None:
    process = start(words)
    told = process.communicate()[1].decode()
    assert process.returncode == 0, told


def test_a_full_disk_is_reported_and_nothing_done_is_lost(footage, tmp_path):
    output = tmp_path / "out"

    def fill() -> None:  # no file may grow beyond 3 kB
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    process = start(command(footage, output, "workers=1"), preexec_fn=fill)
    words = process.communicate()[1].decode()
    assert process.returncode == 2, words
    assert "Make room there" in words
    assert "Traceback" not in words
    assert not (output / "manifest.jsonl").exists()
    assert not list(output.rglob("*.partial"))
    assert main(command(footage, output, "workers=1")) == 0
    assert sum(map(len, rows(output).values())) == 9


def test_cut_files_and_shards_hold_the_very_frames(footage, tmp_path, read_frames):
    output = tmp_path / "out"
    assert main(command(footage, output, "files=shards")) == 0
    kept = [clip for clip in read_manifest(output) if not clip.dropped]
    assert len(kept) == 3
    for clip in kept:
        origin = clip.extra["cut_from"]
        assert Path(clip.path).parent == output / "clips"
        ours = read_frames(clip.path, clip.start, clip.end)
        theirs = read_frames(origin["path"], origin["start"], origin["end"])
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).mean() < 3
        assert probe(clip.path).fps == pytest.approx(24)
    first = next(clip for clip in kept if "quoted" in clip.extra["cut_from"]["path"])
    origin = first.extra["cut_from"]
    ours, theirs = read_frames(first.path), read_frames(origin["path"])
    assert np.array_equal(ours, theirs)  # a whole film is copied, not coded again
    with tarfile.open(output / "shards" / "000000.tar") as tar:
        names = tar.getnames()
    assert sorted(names) == sorted(
        f"{clip.extra['id']}.{suffix}" for clip in kept for suffix in ("mp4", "txt", "json")
    )


def test_settings_that_cannot_be_are_refused(footage, tmp_path, capsys):
    assert main(command(footage, tmp_path / "out", "skip=[motoin]")) == 2
    assert "motion" in capsys.readouterr().err
    assert main(command(tmp_path / "nothing", tmp_path / "out")) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_a_setting_that_changes_later_stages_keeps_what_was_looked_at(footage, tmp_path):
    config = CurateConfig(
        input=str(footage / "sub 'dir'"), output=str(tmp_path / "out"), skip=SKIP, workers=1
    )
    curate(config)
    entries = {each: each.stat().st_mtime_ns for each in (tmp_path / "out/work").glob("*.json")}
    curate(replace(config, dedup=replace(config.dedup, correlation=0.9)))
    again = {each: each.stat().st_mtime_ns for each in (tmp_path / "out/work").glob("*.json")}
    assert again == entries
