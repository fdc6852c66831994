"""Several processes make the video that one makes, and end together."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2v.cli import main
from t2v.models.transformer import T2VTransformer3DModel
from t2v.pipelines.t2v import T2VPipeline
from t2v.pipelines.t2v_generator import T2VGenerator

FORKSERVER = multiprocessing.get_context("forkserver")  # imports torch once for all processes
PRELOADED = ["t2v.sampling.devices", "t2v.sampling.run", "t2v.pipelines.t2v_generator", "PIL.Image"]
FORKSERVER.set_forkserver_preload([*PRELOADED, "torch.distributed.tensor"])
PROMPT = "a red ball bounces on the grass"
BOUND = 1e-5  # of the largest latent, beside one process


def work(rank, world, port, runs, log):
    """`t2v sample` for each list of words, as `torchrun` would start this process of it."""
    torch.set_num_threads(1)
    os.dup2(os.open(f"{log}.{rank}", os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    generate = T2VGenerator.generate

    def watched(self, conditions, request, seeds, *rest):
        latents = generate(self, conditions, request, seeds, *rest)
        torch.save(latents, f"{place}.pt")
        return latents

    T2VGenerator.generate = watched
    codes = set()
    for number, words in enumerate(runs):
        place = words[words.index("-o") + 1].rstrip("/")
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port[number])}
        codes.add(main(["sample", PROMPT, "device=cpu", *words]))
    sys.exit(max(codes))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def started(world, *runs, log="log"):
    ports = [free_port() for _ in runs]
    args = (world, ports, runs, Path(log).resolve())
    processes = [FORKSERVER.Process(target=work, args=(rank, *args)) for rank in range(world)]
    for process in processes:
        process.start()
    return processes


def ends(processes):
    """The exit codes of processes that end by themselves."""
    before = time.monotonic()
    for process in processes:
        process.join(60)
    assert time.monotonic() - before < 45
    return [process.exitcode for process in processes]


def said(rank, log="log"):
    return Path(f"{log}.{rank}").read_text()


def frames_of(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(Path(folder).glob("*.png"))])


def assert_near(folder, other):
    latents, wanted = torch.load(f"{folder}.pt"), torch.load(f"{other}.pt")
    torch.testing.assert_close(latents, wanted, atol=BOUND * float(wanted.abs().max()), rtol=0)
    assert np.abs(frames_of(folder).astype(int) - frames_of(other)).max() <= 1


@pytest.fixture
def model(pipe, tmp_path, monkeypatch):
    """A tiny pipeline folder, and pictures that it takes, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    pipe.transformer.take_known(picture_tokens=True)
    torch.nn.init.normal_(pipe.transformer.picture_embedding)
    pipe.save_pretrained("tiny")
    for name, level in (("first.png", 60), ("last.png", 200)):
        Image.new("RGB", (48, 32), (level, 100, 255 - level)).save(name)
    return ["--model", "tiny", "--steps", "3"]


PICTURES = ["--image", "first.png", "--last-image", "last.png"]  # each token has a time of its own


def processes_of(folder):
    return json.loads(Path(f"{folder}.json").read_text())["versions"].get("processes")


def test_two_processes_make_the_video_of_one_by_halves_of_guidance_and_of_the_sequence(model):
    plain, seen = [*model, "-o"], [*model, *PICTURES, "-o"]
    assert ends(started(1, [*plain, "plain/"], [*seen, "seen/"])) == [0]
    pair = started(2, [*plain, "halves/"], [*seen, "parts/", "parallel=sequence"])
    assert ends(pair) == [0, 0], said(0) + said(1)
    assert_near("halves", "plain")
    assert_near("parts", "seen")
    assert processes_of("halves") == "2 (guidance=2 sequence=1)"
    assert processes_of("parts") == "2 (guidance=1 sequence=2)"
    assert processes_of("plain") is None and said(1) == ""


def until(path):
    for _ in range(2000):
        if Path(path).exists():
            return
        time.sleep(0.01)
    raise AssertionError(said(0))


def stopped(model, rank, sign):
    """The exit codes of two processes, one of which gets a signal amid its steps."""
    processes = started(2, [*model, "-o", "x.mp4", "--steps", "2000", "--preview-every", "2"])
    until("x.preview.png")
    os.kill(processes[rank].pid, sign)
    return ends(processes)


def test_the_end_of_one_process_ends_the_other_which_keeps_the_steps(model):
    assert stopped(model, 1, signal.SIGKILL) == [2, -9]
    (line,) = [line for line in said(0).splitlines() if line.startswith("t2v: ")]
    assert line.startswith("t2v: Rank 1 of 2 was killed, as happens where memory ends, so all")
    assert "of 2000 steps are kept. Continue with: t2v sample --resume" in line
    assert Path("x.latents.safetensors").exists()


@pytest.mark.slow
def test_the_others_end_with_the_first(model):
    assert stopped(model, 0, signal.SIGKILL) == [-9, 1]
    assert "ERROR Rank 0 of 2 was killed" in said(1)


def typed(model, launcher, **environment):
    """A process that takes a prompt a line, by `t2v sample --interactive`."""
    words = [*launcher, "-m", "t2v", "sample", "device=cpu", *model, "--interactive"]
    pipe, environment = subprocess.PIPE, {**os.environ, **environment}
    return subprocess.Popen(
        [sys.executable, *words], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment
    )


def first_video(process):
    process.stdin.write(f"{PROMPT}\n")
    process.stdin.flush()
    assert process.stdout.readline() == f"{Path('video.mp4').resolve()}\n"


@pytest.mark.slow
def test_torchrun_makes_videos_and_ends_with_any_process(model):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2"]
    with typed(model, [*launcher, f"--master-port={free_port()}"]) as torchrun:
        first_video(torchrun)
        children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        os.kill(max(map(int, children)), signal.SIGKILL)
        torchrun.wait(45)
        err = torchrun.stderr.read()
    assert torchrun.returncode == 1 and processes_of("video") == "2 (guidance=2 sequence=1)"
    assert err.count("Rank 1 of 2 was killed, as happens where memory ends") == 1, err


@pytest.mark.slow
def test_what_waits_for_a_prompt_ends_with_another_process_where_no_launcher_ends_it(model):
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    first, other = (typed(model, [], **port, **rank) for rank in ranks)
    with first, other:
        first_video(first)
        other.kill()
        first.wait(20)
        err = first.stderr.read()
    assert first.returncode == 2
    assert err.count("t2v: Rank 1 of 2 was killed, as happens where memory ends") == 1, err


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_first_keeps_the_steps_and_ends_all(model, sign):
    assert stopped(model, 0, sign) == [130, 1]
    assert "t2v: interrupted. " in said(0) and "steps are kept" in said(0)
    assert said(1) == ""


@pytest.mark.slow
def test_four_processes_split_the_sequence_of_each_half(model):
    plain, seen = [*model, "-o"], [*model, *PICTURES, "-o"]
    assert ends(started(1, [*plain, "plain/"], [*seen, "seen/"])) == [0]
    assert ends(started(4, [*plain, "four/"], [*seen, "seen-by-four/"])) == [0] * 4, said(0)
    assert_near("four", "plain")
    assert_near("seen-by-four", "seen")
    assert processes_of("four") == "4 (guidance=2 sequence=2)"


@pytest.mark.slow
def test_loras_and_quantized_weights_are_those_of_all_processes(model, pipe):
    from peft import LoraConfig, get_peft_model_state_dict  # which every process would import

    layers = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(layers)
    T2VPipeline.save_lora_weights(
        "lora", transformer_lora_layers=get_peft_model_state_dict(pipe.transformer)
    )
    words = [*model, "lora=lora/pytorch_lora_weights.safetensors", "lora_scale=2", "quantize=fp8"]
    assert ends(started(1, [*words, "-o", "one/"], [*model, "-o", "plain/"])) == [0], said(0)
    assert ends(started(2, [*words, "-o", "two/"])) == [0, 0], said(0) + said(1)
    assert_near("two", "one")
    assert np.abs(frames_of("one").astype(int) - frames_of("plain")).max() > 20


@pytest.mark.slow
def test_what_processes_began_one_goes_on_with_and_makes_again(model):
    long = [*model, "--steps", "300", "-o", "x/"]
    assert ends(started(1, [*model, "--steps", "300", "-o", "whole/"])) == [0]
    processes = started(2, [*long, "--preview-every", "2"])
    until("x.preview.png")
    os.kill(processes[0].pid, signal.SIGTERM)
    assert ends(processes) == [130, 1]
    assert main(["sample", "--resume", "x.latents.safetensors"]) == 0
    assert np.abs(frames_of("x").astype(int) - frames_of("whole")).max() <= 1
    assert processes_of("x") is None  # as it was made in the end


@pytest.mark.slow
@pytest.mark.parametrize("family", ["wan", "wan_a14b", "wan_5b_i2v"])
def test_wans_family_splits_the_sequence(
    family, tokenizer, text_encoder, wake, tmp_path, monkeypatch
):
    from ..unit.families.tiny import build  # which every process would import

    monkeypatch.chdir(tmp_path)
    text = {"tokenizer": tokenizer, "text_encoder": text_encoder}
    build(family, text, wake).save_pretrained(family)
    words = ["--model", family, "--steps", "2", "--height", "32", "--width", "32", "--frames", "9"]
    if family == "wan_5b_i2v":
        Image.new("RGB", (32, 32), (200, 100, 50)).save("first.png")
        words += ["--image", "first.png"]
    assert ends(started(1, [*words, "-o", "one/"])) == [0], said(0)
    assert ends(started(2, [*words, "-o", "two/"])) == [0, 0], said(0) + said(1)
    assert np.abs(frames_of("one").astype(int) - frames_of("two")).max() <= 1
    assert processes_of("two") == "2 (guidance=1 sequence=2)"


@pytest.mark.slow
def test_other_families_are_refused(tokenizer, text_encoder, wake, tmp_path, monkeypatch):
    from ..unit.families.tiny import build

    monkeypatch.chdir(tmp_path)
    build("ltx", {"tokenizer": tokenizer, "text_encoder": text_encoder}, wake).save_pretrained("m")
    assert ends(started(2, ["--model", "m", "-o", "two.mp4"])) == [2, 1]
    assert "t2v: 2 processes: the tokens of a LTXVideoTransformer3DModel are not split" in said(0)


REFUSED = {
    "parallel=guidance --guidance 1": "guidance_scale=1 image_guidance_scale=1 take 1 pass a step",
    "compile=true": "compile=true with 2 processes",
    "offload=group": "offload=group with 2 processes",
    "parallel=guidance --image first.png --image-guidance 2": "take 3 passes a step",
    "--grid": "--grid with 2 processes",
    "--height 16 --width 16 --frames 1 --guidance 1": "2 parts of a sequence: the video has 1 tok",
    "--height 16 --width 48 --frames 1 --guidance 1": "3 tokens and 2 heads are not all multiples",
}


@pytest.mark.slow
def test_what_cannot_be_split_is_one_message(model):
    for words, message in REFUSED.items():
        codes = ends(started(2, [*model, "-o", "x.mp4", *words.split()], log="refused"))
        told = [line for line in said(0, "refused").splitlines() if line.startswith("t2v: ")]
        assert codes == [2, 1] and said(1, "refused") == "", (words, told, said(1, "refused"))
        assert len(told) == 1 and message in told[0], told
        Path("refused.0").unlink()
        Path("refused.1").unlink()


def test_a_split_of_one_process_is_refused(model, capsys):
    assert main(["sample", PROMPT, *model, "parallel=sequence"]) == 2
    assert (
        "parallel=sequence: one process makes the video. Start several" in capsys.readouterr().err
    )


def test_a_ring_of_two_processes_makes_the_video_of_one_and_says_so(model):
    plain, seen = [*model, "-o"], [*model, *PICTURES, "-o"]
    assert ends(started(1, [*plain, "plain/"], [*seen, "seen/"])) == [0]
    pair = started(2, [*plain, "ring/", "parallel=ring"], [*seen, "round/", "parallel=ring"])
    assert ends(pair) == [0, 0], said(0) + said(1)
    assert_near("ring", "plain")
    assert_near("round", "seen")
    assert processes_of("ring") == "2 (guidance=1 sequence=2 ring)"


def test_two_processes_attend_within_frames_and_along_time_in_turn(
    components, pipe, wake, tmp_path, monkeypatch
):
    """Three latent frames of 6 places, and 4 frames: the first are no equal parts of two."""
    monkeypatch.chdir(tmp_path)
    settings = dict(components["transformer"].config) | {"attention": "factorized"}
    pipe.register_modules(transformer=wake(T2VTransformer3DModel.from_config(settings)))
    pipe.save_pretrained("tiny")
    words = ["--model", "tiny", "--steps", "2", "-o"]
    longer = ["--frames", "13"]
    assert ends(started(1, [*words, "one/"], [*words, "long/", *longer])) == [0]
    for way in ("sequence", "ring"):
        split = f"parallel={way}"
        pair = [*words, f"{way}/", split], [*words, f"{way}-long/", split, *longer]
        assert ends(started(2, *pair)) == [0, 0], said(0) + said(1)
        assert_near(way, "one")
        assert_near(f"{way}-long", "long")
