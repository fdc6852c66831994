"""Trainings killed at any instant go on to the end state of the uninterrupted one."""

import json
import multiprocessing
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t2v.training.checkpoint import newest_checkpoint
from t2v.training.dit import train_dit
from t2v.training.vae import train_vae

KILLS = 20
TICK = 0.01  # seconds; what the system counts processor time in
TRAIN = {"vae": train_vae, "dit": train_dit}


def work(kind, config):
    torch.set_num_threads(1)
    TRAIN[kind](config)


def attempt(kind, config, seconds):
    """Train in a process that is killed after so much processor time: did it end before, and the
    time it had used."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["t2v.training.dit", "t2v.training.vae", "torch.utils.tensorboard"]
    )
    process = context.Process(target=work, args=(kind, config))
    process.start()
    spent = 0.0
    while process.is_alive() and spent < seconds:
        spent = max(spent, used(process.pid))
        time.sleep(TICK / 2)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9)
    return process.exitcode == 0, spent


def used(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK


def end_of(config):
    folder, output = newest_checkpoint(config.output), Path(config.output)
    tensors = {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in folder.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return tensors, metrics, (output / "validations.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processor time of a process")
@pytest.mark.parametrize("kind", ["vae", "dit"])
def test_every_resume_after_a_kill_ends_in_the_same_state(kind, tmp_path, request):
    config = request.getfixturevalue(f"{kind}_config")
    config = replace(config, steps=8, save_every=1, validate_every=2, accumulate=2)
    ended, whole = attempt(kind, config, seconds=1e9)
    assert ended
    tensors, metrics, validations = end_of(config)
    instants = random.Random(0)
    kills, runs, saved = 0, 0, set()
    while kills < KILLS:
        runs += 1
        other = replace(config, output=str(tmp_path / f"killed-{runs}"))
        ended = False
        while not ended:
            instant = instants.uniform(0, 0.7 * whole) if kills < KILLS else 1e9
            ended, _ = attempt(kind, other, instant)
            kills += not ended
            saved.add(newest_checkpoint(other.output))
        reached, logged, judged = end_of(other)
        assert reached.keys() == tensors.keys()
        assert [name for name in tensors if not torch.equal(tensors[name], reached[name])] == []
        assert logged == metrics
        assert judged == validations
    assert len(saved) > 3  # some kills came late enough for a checkpoint to go on from
