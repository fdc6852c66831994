"""Runs with one output, files of others in it, and logs that a power cut tore."""

import json
import logging
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from t2v.config.curation import CurateConfig
from t2v.config.data import EncodeConfig
from t2v.config.evaluation import CompareConfig, EvalConfig, FootageEvalConfig
from t2v.config.world import WorldClipsConfig, WorldOracleConfig, WorldTextConfig
from t2v.curation.run import curate
from t2v.data.encode import encode
from t2v.errors import UserError
from t2v.evaluation import retrieval
from t2v.evaluation.compare import compare
from t2v.evaluation.run import evaluate
from t2v.io.checkpoint import newest_checkpoint
from t2v.training.tasks.vae import train_vae
from t2v.world.oracle_training import train_oracle
from t2v.world.run import render_world
from t2v.world.text import train_text

HOLD = """
import sys, time
from pathlib import Path
from t2v.io.files import locked
with locked(Path(sys.argv[1]), command="t2v first"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def runs(tmp_path, vae_config):
    """Each command with its settings, all with one output; they end before they read data."""
    output = str(tmp_path / "out")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "film.mp4").touch()
    return {
        "train-vae": (train_vae, replace(vae_config, output=output)),
        "encode": (encode, EncodeConfig(data="nowhere", model="nowhere", output=output)),
        "eval": (evaluate, EvalConfig(model="nowhere", output=output)),
        "eval footage": (
            retrieval.evaluate,
            FootageEvalConfig(model="nowhere", data="nowhere", output=output),
        ),
        "eval compare": (compare, CompareConfig(runs=("a", "b"), output=output)),
        "world": (render_world, WorldClipsConfig(output=output)),
        "world text": (train_text, WorldTextConfig(output=output)),
        "world oracle": (train_oracle, WorldOracleConfig(data="nowhere", output=output)),
        "curate": (curate, CurateConfig(input=str(tmp_path / "in"), output=output)),
    }


KINDS = (
    *("train-vae", "encode", "eval", "eval footage", "eval compare"),
    *("world", "world text", "world oracle", "curate"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_run_with_the_same_output_is_refused_and_the_first_one_named(kind, runs, clips):
    command, config = runs[kind]
    output = Path(config.output)
    output.mkdir()
    words = [sys.executable, "-c", HOLD, str(output)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=f"t2v first, process {other.pid} on "):
                command(config)
        finally:
            other.kill()
    assert [path.name for path in output.iterdir()] == [".t2v.lock"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_others_stops_a_run_before_it_writes(kind, runs, clips):
    command, config = runs[kind]
    output = Path(config.output)
    output.mkdir()
    (output / "config.yaml").write_text("mine: 1\n")
    with pytest.raises(UserError, match=rf"holds config\.yaml, which `t2v {kind}` did not write"):
        command(config)
    assert [path.name for path in output.iterdir()] == ["config.yaml"]
    assert (output / "config.yaml").read_text() == "mine: 1\n"


@pytest.mark.parametrize("name", ["metrics.jsonl", "validations.jsonl"])
def test_a_training_goes_on_after_a_power_cut_tore_its_logs(name, vae_config, caplog):
    config = replace(vae_config, steps=2, save_every=2, validate_every=2)
    train_vae(config)
    path = Path(config.output, name)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    path.write_bytes(
        b"\0" * 4096 + lines[0] + b'{"step": 1, "lo\n' + b"\0" * 700 + b"\n" + lines[1]
    )
    with caplog.at_level(logging.WARNING):
        train_vae(replace(config, steps=4))
    assert f"{name}: 1 damaged lines are left out, 2 are whole" in caplog.text
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    wanted = [1, 2, 3, 4] if name == "metrics.jsonl" else [0, 2, 4]
    assert [row["step"] for row in rows] == wanted


def train_apart(config):
    try:
        train_vae(config)
    except UserError as error:
        sys.exit(f"refused: {error}")


@pytest.mark.slow
def test_of_two_trainings_with_one_output_one_goes_on_to_its_end(vae_config):
    config = replace(vae_config, steps=30, save_every=1)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["t2v.training.tasks.vae"])
    for _ in range(5):
        both = [context.Process(target=train_apart, args=(config,)) for _ in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join()
        assert sorted(process.exitcode for process in both) == [0, 1]
        assert newest_checkpoint(config.output).name == f"checkpoint-{config.steps:06d}"
        config = replace(config, steps=config.steps + 30)
