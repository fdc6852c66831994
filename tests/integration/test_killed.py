"""Trainings and encodings killed at any instant go on to the end state of the uninterrupted one."""

import json
import logging
import multiprocessing
import random
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t2v.config.data import ClipsConfig, EncodeConfig
from t2v.data.encode import encode
from t2v.io.checkpoint import newest_checkpoint
from t2v.training.tasks.dit import train_dit
from t2v.training.tasks.vae import train_vae

KILLS = 20
TICK = 0.01  # seconds; what the system counts processor time in
WORK = {"vae": train_vae, "dit": train_dit, "encode": encode}


def work(kind, config):
    torch.set_num_threads(1)
    WORK[kind](config)


def attempt(kind, config, seconds):
    """Work in a process that is killed after so much processor time: did it end before, and the
    time it had used."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["t2v.data.encoding", "t2v.training.tasks.vae", "torch.utils.tensorboard"]
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
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) * TICK


def trained(config):
    """All that a training leaves but times."""
    folder, output = newest_checkpoint(config.output), Path(config.output)
    tensors = {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in folder.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k != "seconds"} for line in lines]
    return tensors, [metrics, (output / "validations.jsonl").read_text()]


def encoded(config):
    """All that an encoding leaves, whichever shard holds what."""
    output = Path(config.output)
    shards = (output / "latents").rglob("*.safetensors")
    tensors = {
        f"{path.parent.name}:{name}": tensor
        for path in shards
        for name, tensor in load_file(path).items()
    }
    names = ("manifest.jsonl", "report.json", "report.txt", "sheet.png", "latents/ledger.jsonl")
    return tensors, [(output / name).read_bytes() for name in names]


def stage(kind, config):
    """What a kill left behind."""
    output = Path(config.output)
    if kind == "encode":
        return f"{len(list(output.rglob('*.safetensors')))} shards"
    newest = newest_checkpoint(output)
    half = any(output.glob(".checkpoint-*.partial"))
    return f"{newest.name if newest else 'no checkpoint'}{' and half of one' if half else ''}"


def end_as_if_never_killed(kind, config, end_of, tmp_path):
    """Kill the work at `KILLS` random instants of its processor time, over several outputs, and
    compare what each comes to; counts what the kills left behind."""
    ended, whole = attempt(kind, config, seconds=1e9)
    assert ended
    tensors, files = end_of(config)
    instants = random.Random(0)
    stages, runs = Counter(), 0
    while stages.total() < KILLS:
        runs += 1
        other = replace(config, output=str(tmp_path / f"killed-{runs}"))
        ended = False
        while not ended:
            instant = instants.uniform(0, whole) if stages.total() < KILLS else 1e9
            ended, _ = attempt(kind, other, instant)
            stages.update([] if ended else [stage(kind, other)])
        reached, told = end_of(other)
        assert reached.keys() == tensors.keys()
        assert [name for name in tensors if not torch.equal(tensors[name], reached[name])] == []
        assert told == files
    logging.info("%d kills in %d outputs left: %s", stages.total(), runs, dict(stages))
    return stages


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processor time of a process")
@pytest.mark.parametrize("kind", ["vae", "dit"])
def test_every_resume_after_a_kill_ends_in_the_same_state(kind, tmp_path, request):
    config = request.getfixturevalue(f"{kind}_config")
    config = replace(config, steps=8, save_every=1, validate_every=2, accumulate=2)
    stages = end_as_if_never_killed(kind, config, trained, tmp_path)
    assert len(stages) > 3, stages  # late enough for a checkpoint to go on from, in many places


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processor time of a process")
def test_every_encoding_after_a_kill_ends_in_the_same_cache_and_report(pipe, media, tmp_path):
    pipe.register_to_config(num_frames=9, height=48, width=80)
    pipe.save_pretrained(tmp_path / "base")
    words = ["red", "blue", "ball", "box", "rolls", "bounces", "grass", "snow"]
    rows = [
        {"path": f"{n % 9}.mp4", "start": n // 9 / 64, "caption": f"a {a} {b} on the {c}"}
        for n, (a, b, c) in enumerate((a, b, c) for a in words for b in words for c in words)
    ]
    rows += [{"path": "gone.mp4", "caption": "a ball"}, {"path": "short.mp4", "caption": ""}]
    (media / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[-300:]))
    config = EncodeConfig(
        data=str(media), model=str(tmp_path / "base"), output=str(tmp_path / "encoded"),
        clips=ClipsConfig(workers=1),
    )  # fmt: skip
    stages = end_as_if_never_killed("encode", config, encoded, tmp_path)
    assert len(stages) > 3, stages
    assert len(encoded(config)[0]) > 300
