"""Four commands on several workers, local or of Ray, one of which is killed: the same bytes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2v.cli import main

ROOT = Path(__file__).parents[2]
FOOTAGE = Path(__file__).parent / "unchanged" / "footage"
PROMPTS = ("a red ball bounces on grass", "a blue cube moves left", "a green star spins at dusk")
SIZE = ("num_frames=5", "num_inference_steps=2")
# the command, and the files whose bytes are compared
COMMANDS = {
    "curate": (["curate", str(FOOTAGE), "scenes.min_seconds=0.5"], "manifest.jsonl"),
    "encode": (
        ["encode", str(FOOTAGE), "model=t2v-tiny", "clips.num_frames=9", "clips.max_upscale=4"],
        "**/*.*",
    ),
    "eval": (
        ["eval", "t2v-tiny", "suites=[attribute,via_image]", "count=4", "batch_size=2", *SIZE],
        "**/*.*",
    ),
    "sample": (["sample", *PROMPTS, "--sheet", *SIZE], "*.*"),
}
ENGINES = {"local": ["workers=2"], "ray": ["engine=ray", "workers=2"]}


def start(words: list[str], mark: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "T2V_TEST": mark}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": environment}
    return subprocess.Popen([sys.executable, "-m", "t2v", *words], **quiet, cwd=ROOT)


def marked(mark: str) -> list[tuple[int, bytes]]:
    """The processes, and their titles, that inherited the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"T2V_TEST={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((int(folder.name), (folder / "cmdline").read_bytes()))
    return found


def kill_one(process: subprocess.Popen, mark: str, title: bytes) -> None:
    """Kill the first worker that is seen, a little later, when it has its first item."""
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        # not Ray's own agents, whose end is that of the whole node
        if found := [pid for pid, name in marked(mark) if title in name and b"Agent" not in name]:
            time.sleep(1)
            os.kill(found[0], signal.SIGKILL)
            return
    raise AssertionError((process.communicate()[1] or b"no worker").decode())


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    """The bytes of its files, but for the one that tells the engine."""
    files = [each for each in folder.glob(pattern) if each.is_file()]
    return {
        each.relative_to(folder).as_posix(): each.read_bytes()
        for each in files
        if each.name != "config.yaml"
    }


@pytest.fixture(scope="module")
def wanted(tmp_path_factory) -> tuple[Path, dict[str, dict[str, bytes]]]:
    """A folder, and what one process wrote there, by command: recipes tell the place."""
    return tmp_path_factory.mktemp("engine"), {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("name", COMMANDS)
def test_workers_give_the_bytes_of_one_process_though_one_is_killed(name, kind, wanted):
    if kind == "ray":
        pytest.importorskip("ray")
    (words, pattern), (folder, known) = COMMANDS[name], wanted
    output, mark = folder / "out", f"{folder} {name} {kind}"
    place = f"output={output / 'v.mp4' if name == 'sample' else output}"
    if name not in known:
        output.mkdir()
        assert main([*words, place, *(["workers=1"] if name == "curate" else [])]) == 0
        known[name] = contents(output.rename(folder / name), pattern)
        assert known[name]
    output.mkdir()
    process = start([*words, place, *ENGINES[kind]], mark)
    kill_one(process, mark, b"spawn_main" if kind == "local" else b"ray::Isolated")
    told = process.communicate(timeout=900)[1].decode()
    assert process.returncode == 0, told
    assert "Traceback" not in told
    found = contents(output.rename(folder / f"{name}-{kind}"), pattern)
    assert found.keys() == known[name].keys()
    assert not [file for file in found if found[file] != known[name][file]]
    assert not [title for _, title in marked(mark) if b"spawn_main" in title]


@pytest.mark.slow
def test_a_killed_command_goes_on_with_its_workers_gone(wanted):
    (words, _), (folder, _) = COMMANDS["sample"], wanted
    output, mark = folder / "killed", f"{folder} killed"
    output.mkdir()
    words = [*words, f"output={output / 'v.mp4'}", "workers=2"]
    process = start(words, mark)
    while not (made := [*output.glob("*.json")]) and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert made and not marked(mark)
    before = {each: each.with_suffix(".mp4").stat().st_mtime_ns for each in made}
    process = start(words, mark)
    told = process.communicate(timeout=900)[1].decode()
    assert process.returncode == 0, told
    assert {each: each.with_suffix(".mp4").stat().st_mtime_ns for each in made} == before
    assert len([*output.glob("*.mp4")]) == len(PROMPTS)
    assert not [*output.glob("*.partial")]
