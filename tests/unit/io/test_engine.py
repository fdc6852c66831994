"""The contract of both engines: local processes and a Ray cluster give the same, kills or not."""

import os
import signal
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from t2v.config.data import EncodeConfig
from t2v.config.evaluation import EvalConfig
from t2v.config.load import load_config
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io import engine
from t2v.io.workers import Failure

ENGINES = ["local", pytest.param("ray", marks=pytest.mark.slow)]


def load(folder: Path) -> list[int]:
    """A model that says where it was loaded."""
    (folder / f"loaded-{os.getpid()}").touch()
    return [10]


def plus(model, number):
    return model[0] + number, os.getpid()


def deadly(model, marker: Path, times: int):
    """Dies so many times, and answers then."""
    marker.write_text(f"{marker.read_text() if marker.exists() else ''}x")
    if len(marker.read_text()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "answered"


def refusing(model):
    raise UserError("no such thing. Name another.")


def failing(model):
    raise ZeroDivisionError("by naught")


@pytest.mark.parametrize("kind", ENGINES)
def test_each_worker_loads_its_model_once_and_a_killed_one_changes_nothing(kind, tmp_path):
    if kind == "ray":
        pytest.importorskip("ray")
    config = SimpleNamespace(engine=kind, workers=2)
    with engine.model_pool(config, partial(load, tmp_path), "cpu", threads=1) as workers:
        first = workers.results((partial(plus, number=n) for n in range(8)), count=8, in_order=True)
        answers = list(first)
        loaded = {int(each.name.partition("-")[2]) for each in tmp_path.glob("loaded-*")}
        assert [(n, value) for n, (value, _) in answers] == [(n, 10 + n) for n in range(8)]
        assert {process for _, (_, process) in answers} <= loaded and len(loaded) <= 2
        once, often = (partial(deadly, marker=tmp_path / str(n), times=n) for n in (1, 9))
        results = dict(workers.results([once, often, failing, partial(plus, number=1)], count=4))
        assert results[0] == "answered" and results[3][0] == 11
        assert results[1] == Failure("crash", "the worker died of signal 9")
        assert (tmp_path / "9").read_text() == "xxx"  # three tries
        assert results[2].kind == "error" and "naught" in results[2].trace
        with pytest.raises(UserError, match=r"X: the worker died of signal 9, 3 times"):
            list(engine.succeeded([(0, results[1])], ["X"]))
        with pytest.raises(UserError, match="Name another"):
            list(workers.results([refusing], count=1))
        assert next(workers.results([partial(plus, number=2)]))[1][0] == 12  # the pool lives on


@pytest.mark.parametrize("schema", [EncodeConfig, EvalConfig, SampleConfig])
def test_engines_and_workers_that_cannot_be_are_refused(schema):
    words = ["data=x", "model=x", "output=x.mp4"][1 if schema is not EncodeConfig else 0 :]
    for wrong, told in [
        ("workers=0", "workers=0: it must be at least 1. Leave it out"),
        ("engine=dask", "local"),
    ]:
        with pytest.raises(UserError, match=told):
            load_config(schema, None, [*words, wrong])


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_ray_that_is_not_installed_is_said():
    config = SimpleNamespace(engine="ray", workers=None)
    with pytest.raises(UserError, match=r'engine=ray needs Ray: pip install "t2v\[ray\]"'):
        engine.model_pool(config, load, "cpu", threads=1)


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_and_machines_without_a_gpu_are_said(monkeypatch):
    ray = pytest.importorskip("ray")
    ray.shutdown()
    config = SimpleNamespace(engine="ray", workers=None)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"no cluster answers at RAY_ADDRESS=127\.0\.0\.1:1"):
        engine.model_pool(config, load, "cpu", threads=1)
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(UserError, match="has a GPU for a worker"):
        engine.model_pool(config, load, "cuda", threads=1)
    ray.shutdown()


def test_a_system_that_does_not_say_which_processors_are_ours_has_all(monkeypatch):
    assert engine.cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert engine.cores() == 6
