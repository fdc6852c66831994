"""Two processes on gloo train what one process trains, and go on from each other's checkpoints."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t2v.distributed import world_size
from t2v.errors import UserError
from t2v.settings import save_config
from t2v.training.checkpoint import newest_checkpoint
from t2v.training.dit import train_dit
from t2v.training.vae import train_vae

JUDGED = ("seconds", "verdict", "val_change", "val_chance")  # a small difference of large numbers
TRAIN = {"vae": train_vae, "dit": train_dit}


def work(rank, ports, kind, configs):
    torch.set_num_threads(1)
    for port, config in zip(ports, configs, strict=True):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        TRAIN[kind](config)


def train_by_two(kind, *configs):
    """One training after the other, each by two processes as `torchrun` would start them."""
    context = multiprocessing.get_context("forkserver")  # imports torch once for all of them
    context.set_forkserver_preload(["t2v.training.dit", "t2v.training.vae"])
    ports = []
    for _ in configs:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    pair = [context.Process(target=work, args=(rank, ports, kind, configs)) for rank in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]


def end_of(config):
    folder = newest_checkpoint(config.output)
    return {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def metrics_of(config, but=("seconds",)):
    """All that was logged but these, and but what was judged before the last step."""
    text = (Path(config.output) / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    judged = {name for name in lines[-1] if name.startswith(("val_", "verdict"))}
    return [
        {
            name: value
            for name, value in line.items()
            if name not in but and (line is lines[-1] or name not in judged)
        }
        for line in lines
    ]


@pytest.mark.parametrize("kind", ["vae", "dit"])
def test_two_processes_train_what_one_trains_and_resume_to_the_bit(kind, tmp_path, request):
    config = replace(request.getfixturevalue(f"{kind}_config"), precision="fp32", accumulate=2)
    one = replace(config, accumulate=4)
    TRAIN[kind](one)
    ways = {
        name: replace(config, output=str(tmp_path / name), parallel=name)
        for name in ("ddp", "fsdp")
    }
    halves = {name: replace(way, output=str(tmp_path / f"{name}-2")) for name, way in ways.items()}
    begun = [replace(half, steps=2) for half in halves.values()]
    train_by_two(kind, *ways.values(), *begun, *halves.values())
    wanted, state = metrics_of(one, JUDGED), end_of(one)
    for name, way in ways.items():
        for line, expected in zip(metrics_of(way, JUDGED), wanted, strict=True):
            assert line == pytest.approx(expected, rel=1e-3), name
        reached = end_of(way)
        assert reached.keys() == state.keys()
        for key, tensor in reached.items():
            assert tensor.shape == state[key].shape
        far = {
            key: float((tensor.float() - state[key].float()).abs().max())
            for key, tensor in reached.items()
            if key.startswith("training/weights")
        }
        assert max(far.values()) < 1e-3
        resumed = end_of(halves[name])
        assert [key for key in reached if not torch.equal(reached[key], resumed[key])] == []
        assert metrics_of(halves[name]) == metrics_of(way)
    go_on = replace(ways["fsdp"], accumulate=4, steps=5)  # by one process, as many clips a step
    TRAIN[kind](go_on)
    with pytest.raises(UserError, match=r"processes\): 4 -> 1"):
        TRAIN[kind](replace(go_on, accumulate=1, steps=6))


def test_a_launcher_that_says_too_little_is_refused(vae_config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert world_size() == 2
    with pytest.raises(UserError, match=r"MASTER_ADDR, MASTER_PORT is not set\. Start several"):
        train_vae(vae_config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--nproc-per-node=2", "--master-port=0"],
        ["accelerate.commands.launch", "--cpu", "--num_processes=2", "--main_process_port=0"],
    ],
    ids=["torchrun", "accelerate"],
)
def test_the_launchers_start_a_training(launcher, vae_config, tmp_path):
    config = replace(vae_config, parallel="fsdp")
    save_config(config, tmp_path / "config.yaml")
    door = Path(__file__).parents[2] / "train" / "vae.py"
    command = [
        sys.executable,
        "-m",
        *launcher,
        str(door),
        "--config",
        str(tmp_path / "config.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in metrics_of(config)] == [1, 2, 3, 4]
    assert newest_checkpoint(config.output).name == "checkpoint-000004"
