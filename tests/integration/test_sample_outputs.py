"""What `t2v sample` does to the files in its place, and what a stop leaves there."""

import io
import json
import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from t2v.cli import main
from t2v.io.video import read_recipe, read_video, write_video
from t2v.sampling import results

PROMPT = "a red ball rolls on the grass"
HOLD = """
import sys, time
from pathlib import Path
from t2v.io.files import locked
with locked(Path(sys.argv[1]), command="t2v sample"):
    print("held", flush=True)
    time.sleep(60)
"""
TIGHT = """
import resource, sys
from t2v.cli import main
from t2v.pipelines.t2v_generator import T2VGenerator
decode = T2VGenerator.decode_pieces
def tight(*args):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**20, resource.RLIM_INFINITY))
    try:
        yield from list(decode(*args))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
T2VGenerator.decode_pieces = tight
sys.exit(main(["sample", *sys.argv[1:]]))
"""


@pytest.fixture
def run(pipe, tmp_path, monkeypatch, capsys):
    """`t2v sample` in an empty folder with the tiny model; returns exit code, stdout, stderr."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    pipe.save_pretrained(tmp_path / "model")

    def run(*argv, stored=False):
        code = main(["sample", *argv, *([] if stored else ["--model", str(tmp_path / "model")])])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def at_step(monkeypatch, call, action):
    """Do something in the given step of a denoising."""
    step, calls = FlowMatchEulerDiscreteScheduler.step, count(1)

    def other(*args, **kwargs):
        if next(calls) == call:
            action()
        return step(*args, **kwargs)

    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "step", other)


def names(pattern="*"):
    return sorted(path.name for path in Path().glob(pattern))


def sampled(err):
    return err.count("denoise ")


def test_without_an_output_the_next_free_names_are_taken(run):
    assert run(PROMPT)[0] == 0
    first = Path("video.mp4").read_bytes()
    Path("video-1.gif").write_text("somebody's")
    code, out, err = run("a blue box", PROMPT, "--gif")
    assert code == 0, err
    assert [Path(line).name for line in out.split()] == ["video-2.mp4", "video-3.mp4"]
    assert Path("video.mp4").read_bytes() == first
    assert Path("video-1.gif").read_text() == "somebody's"
    assert read_recipe(Path("video-2.mp4"))["prompt"] == "a blue box"
    assert names(".*") == []


def test_files_of_others_stop_the_command_and_are_named_unless_it_is_told_to_overwrite(run):
    asked = [PROMPT, "--gif", "--sheet", "--num-videos", "2", "-o", "X.mp4"]
    theirs = ["X.mp4", "X.json", "X.gif", "X.sheet.png", "X-1.mp4", "X.latents.safetensors"]
    for name in theirs:
        Path(name).write_text("MINE")
        code, out, err = run(*asked)
        assert (code, out) == (2, "")
        assert f"{name} would be replaced" in err
        assert names() == [name] and Path(name).read_text() == "MINE"
        Path(name).unlink()
    for name in (*theirs, "X.preview.png"):
        Path(name).write_text("MINE")
    assert run(*asked, "--overwrite")[0] == 0
    assert read_recipe(Path("X.mp4"))["settings"]["overwrite"] is False
    assert Path("X.preview.png").read_text() == "MINE"  # no preview was asked for


def test_prompts_from_standard_input_are_those_of_a_file_and_a_bad_line_is_one_message(
    run, monkeypatch
):
    lines = "a red ball\na red box num_inference_steps=1 seed=7\na box height=33\nseed=1\n"
    lines += "a box lora=x\na box height=tall\na \xff box\na box num_frames=99999999\n"
    lines += "-- blue box seed=7\n\na blue ball\n"
    typed = io.TextIOWrapper(io.BytesIO(lines.encode("latin-1")))
    monkeypatch.setattr("sys.stdin", typed)
    code, out, err = run("--interactive", "-o", "X.mp4")
    assert code == 2 and [Path(line).name for line in out.split()] == [
        *("X.mp4", "X-1.mp4", "X-2.mp4")
    ]
    told = [line for line in err.splitlines() if line.startswith("t2v: ")]
    words = [
        "height=33: ",
        "no prompt",
        "lora=x: no setting",
        "whole number",
        "no UTF-8 text",
        "num_frames",
    ]
    for number, (line, part) in enumerate(zip(told, words, strict=False), 3):
        assert line.startswith(f"t2v: line {number}: ") and part in line
    assert told[6:] == ["t2v: 6 of 9 lines made no video; each is told above."]
    assert read_recipe(Path("X-1.mp4"))["settings"]["seed"] == 7
    Path("p.txt").write_text("a red ball\na red box\nblue box seed=7\n")
    run("--prompt-file", "p.txt", "-o", "Y.mp4")
    for one, other in (("X.mp4", "Y.mp4"), ("X-2.mp4", "Y-2.mp4")):
        np.testing.assert_array_equal(read_video(Path(one))[0], read_video(Path(other))[0])
    code, _, err = run("a box", "--interactive")
    assert code == 2 and "from standard input" in err


def test_the_same_command_again_samples_only_what_is_missing_and_another_video_is_not_replaced(run):
    Path("p.txt").write_text("a red ball\na blue box\na red box\n")
    code, first, err = run("--prompt-file", "p.txt", "-o", "cubes.mp4")
    assert code == 0 and sampled(err) == 3
    kept, gone = Path("cubes.mp4").read_bytes(), read_video(Path("cubes-1.mp4"))[0]
    Path("cubes-1.mp4").unlink()
    Path("cubes-2.mp4").write_bytes(Path("cubes-2.mp4").read_bytes()[:-400])  # torn by a copy
    code, again, err = run("--prompt-file", "p.txt", "-o", "cubes.mp4")
    assert code == 0 and again == first and sampled(err) == 2
    assert Path("cubes.mp4").read_bytes() == kept
    np.testing.assert_array_equal(read_video(Path("cubes-1.mp4"))[0], gone)
    assert len(read_video(Path("cubes-2.mp4"))[0]) == 9
    code, _, err = run("--prompt-file", "p.txt", "-o", "cubes.mp4", "--overwrite")
    assert code == 0 and sampled(err) == 3
    for other in (["a green box"], ["a red ball", "--seed", "1"]):
        code, _, err = run(*other, "-o", "cubes.mp4")
        assert code == 2 and "another video ('a red ball', seed 0)" in err
        assert Path("cubes.mp4").read_bytes() == kept


@pytest.fixture
def latents(run, monkeypatch):
    """Kept latents and what stands in their file, `x.latents.safetensors`."""
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert run(PROMPT, "--steps", "4", "-o", "x.mp4")[0] == 130
    with safe_open("x.latents.safetensors", "pt") as file:
        return file.get_tensor("latents"), file.metadata()


def test_resume_writes_beside_its_file_and_never_to_a_path_named_in_it(run, latents, tmp_path):
    tensor, about = latents
    victim = tmp_path / "victim.mp4"
    recipe = json.loads(about["recipe"])
    recipe["settings"] |= {"output": str(victim), "overwrite": True}
    save_file({"latents": tensor}, "z.latents.safetensors", about | {"recipe": json.dumps(recipe)})
    victim.write_text("MY FILM")
    Path("z.mp4").write_text("MINE")
    code, _, err = run("--resume", "z.latents.safetensors", stored=True)
    assert code == 2 and "z.mp4 would be replaced" in err
    Path("z.mp4").unlink()
    code, out, err = run("--resume", "z.latents.safetensors", stored=True)
    assert code == 0, err
    assert out.strip() == str(Path("z.mp4").resolve())
    assert victim.read_text() == "MY FILM"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: (tensor, "5"), "says 5 of 4 steps"),
        (lambda tensor: (tensor, "-1"), "says -1 of 4 steps"),
        (lambda tensor: (tensor.repeat(3, 1, 1, 1, 1), "2"), "latents are one video"),
        (lambda tensor: (tensor.int(), "2"), "latents are one video"),
        (lambda tensor: (tensor * float("nan"), "2"), "NaN or infinite"),
        (lambda tensor: (tensor[..., :3].contiguous(), "2"), "9 frames of 32x48 need (1, 8, 3"),
    ],
)  # fmt: skip
def test_resume_refuses_latents_that_cannot_be_what_they_say(change, words, run, latents):
    tensor, about = latents
    tensor, step = change(tensor)
    save_file({"latents": tensor}, "x.latents.safetensors", about | {"step": step})
    code, _, err = run("--resume", "x.latents.safetensors", stored=True)
    assert code == 2 and words in err and "Traceback" not in err
    assert names() == ["x.latents.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_request_keeps_the_steps_as_ctrl_c_does(number, run, monkeypatch):
    run(PROMPT, "--steps", "5", "-o", "whole.mp4")
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), number))
        code, _, err = run(PROMPT, "--steps", "5", "-o", "a.mp4")
    assert code == 130 and "2 of 5 steps are kept" in err
    assert signal.getsignal(number) == signal.SIG_DFL
    assert run("--resume", "a.latents.safetensors", stored=True)[0] == 0
    np.testing.assert_array_equal(read_video(Path("whole.mp4"))[0], read_video(Path("a.mp4"))[0])


def test_what_fails_amid_the_denoising_keeps_the_steps(run, monkeypatch):
    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        at_step(patch, 3, fail)
        code, _, err = run(PROMPT, "--steps", "5", "-o", "a.mp4")
    assert code == 2 and "2 of 5 steps are kept" in err
    assert run("--resume", "a.latents.safetensors", stored=True)[0] == 0


def test_steps_that_are_kept_are_not_replaced_by_fewer(run, monkeypatch):
    for step, kept in ((4, 3), (2, 3), (5, 4)):
        with monkeypatch.context() as patch:
            at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
            code, _, err = run(PROMPT, "--steps", "5", "-o", "a.mp4")
        assert code == 130 and f"{kept} of 5 steps are kept" in err


def test_a_link_to_what_is_not_there_is_refused_and_nothing_made_behind_it(run, tmp_path):
    Path("link.mp4").symlink_to(tmp_path / "no" / "x.mp4")
    code, _, err = run(PROMPT, "-o", "link.mp4")
    assert code == 2 and "is a link to a file that does not exist" in err
    assert not (tmp_path / "no").exists()


def test_latents_go_only_when_the_video_can_be_read_back_whole(run, monkeypatch):
    def torn(path, pieces, *rest):
        write_video(path, np.concatenate(list(pieces))[:4], *rest)

    monkeypatch.setattr("t2v.io.video.write_video", torn)
    code, _, err = run(PROMPT, "-o", "a.mp4")
    assert code == 2 and "9 frames of 32x48 were written, and 4" in err
    assert load_file("a.latents.safetensors")["latents"].shape == (1, 8, 3, 4, 6)


def test_a_second_run_with_the_same_output_is_refused_and_the_files_stay(run):
    assert run(PROMPT, "-o", "a.mp4")[0] == 0
    video = Path("a.mp4").read_bytes()
    words = [sys.executable, "-c", HOLD, str(Path("a.mp4").resolve())]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            code, out, err = run("a blue box", "-o", "a.mp4", "--overwrite")
            assert run("a blue box", "-o", "b.mp4")[0] == 0
        finally:
            other.kill()
    assert (code, out) == (2, "")
    assert f"t2v sample, process {other.pid} on " in err
    assert Path("a.mp4").read_bytes() == video
    assert run("a blue box", "-o", "a.mp4", "--overwrite")[0] == 0  # the kill let go of it


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="the size of a process")
def test_latents_stay_when_the_memory_ends_in_decoding_and_resume_gives_the_same_video(run):
    size = ["--frames", "65", "--height", "96", "--width", "96", "--steps", "1"]
    words = [PROMPT, *size, "--model", str(Path("../model").resolve()), "-o", "a.mp4"]
    done = subprocess.run(
        [sys.executable, "-c", TIGHT, *words], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2, done.stderr
    assert "do not fit into the memory of this machine" in done.stderr
    assert "The latents are kept. Continue with: t2v sample --resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert names() == ["a.latents.safetensors"]
    assert run("--resume", "a.latents.safetensors", stored=True)[0] == 0
    assert run(PROMPT, *size, "-o", "whole.mp4")[0] == 0
    np.testing.assert_array_equal(read_video(Path("whole.mp4"))[0], read_video(Path("a.mp4"))[0])


@pytest.mark.slow
def test_of_two_commands_with_one_output_one_samples_and_the_other_is_refused(run):
    words = [PROMPT, "--frames", "65", "--height", "96", "--width", "96", "-o", "same.mp4"]
    command = [sys.executable, "-m", "t2v", "sample", "--model", str(Path("../model").resolve())]
    both = [
        subprocess.Popen([*command, *words, "--seed", str(seed)], stderr=subprocess.PIPE, text=True)
        for seed in (1, 2)
    ]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], told
    winner = next(process for process in both if process.returncode == 0)
    assert any(f"process {winner.pid} on" in each for each in told) or any(
        "another video" in each
        for each in told  # the first was done already
    )
    assert len(read_video(Path("same.mp4"))[0]) == 65
    assert names() == ["same.json", "same.mp4"]


@pytest.mark.parametrize("output", ["v.webm", "v.gif", "v/"])
def test_the_ending_of_the_output_says_what_is_written(output, run):
    path = Path(output)
    again = path.with_name(f"v-again{path.suffix}")
    code, _, err = run(PROMPT, "-o", output)
    assert code == 0, err
    frames, stored = results.read_frames(path), results.read_recipe(path)
    assert stored == json.loads(path.with_suffix(".json").read_text())
    assert stored["settings"]["output"].endswith(output)
    assert frames.shape == (9, 32, 48, 3)
    assert "exists already" in run(PROMPT, "-o", output)[2]
    assert run("--recipe", output, stored=True)[0] == 0
    assert np.array_equal(results.read_frames(again), frames)
    assert names() == sorted([path.name, "v.json", again.name, "v-again.json"])
    if path.is_dir():
        (path / "mine.txt").write_text("mine")
        code, _, err = run("a box", "-o", output, "--overwrite")
        assert code == 2 and "holds more than frames (mine.txt)" in err
        assert len(list(path.iterdir())) == 10
