"""`offload=auto`: the fastest way of holding a model that fits a pretended memory."""

from dataclasses import replace

import pytest

from t2v.config.plan import PlanConfig
from t2v.config.sampling import SampleConfig
from t2v.models.device import GIB
from t2v.plan.figures import SPARE
from t2v.plan.fit import fitted
from t2v.plan.run import plan


@pytest.fixture
def config(pipe, tmp_path, monkeypatch):
    """A tiny model, for a card that is not here."""
    pipe.save_pretrained(tmp_path / "model")
    return SampleConfig(model=str(tmp_path / "model"), device="cuda", dtype="bf16")


def test_it_is_the_fastest_rung_that_fits_and_less_memory_never_a_faster_one(config):
    whole = replace(config, offload="none")
    rungs = plan(PlanConfig(command="sample", memory=24), whole).rungs
    assert len(rungs) >= 3
    factors = []
    for rung in rungs[1 :: len(rungs) // 3]:
        free = int(rung.needs.most / SPARE) + 2**12
        found = fitted(config, free)
        held = {"offload": found.offload, "quantize": found.quantize}
        held = {name: value for name, value in held.items() if value != "none"}
        held |= {"vae_tiling": "true"} if found.vae_tiling else {}
        assert held == dict(rung.settings)
        factors.append(rung.factor)
    assert factors == sorted(factors)
    assert fitted(config, 24 * GIB) == whole


def test_weights_that_do_not_move_in_pieces_are_held_whole(config):
    whole = plan(PlanConfig(command="sample", memory=24), replace(config, offload="none"))
    (part,) = (each for each in whole.estimate.parts if each.name == "transformer")
    most = whole.rungs[0].needs.most - part.weights + part.linear
    free = int(most / SPARE) + 2**12
    assert fitted(config, free, packed=0).offload == "none"
    held = fitted(config, free, packed=part.weights)
    assert held.offload in ("text", "model") and held.quantize == "none"


def test_where_nothing_fits_the_last_rung_is_tried_and_said(config, caplog):
    found = fitted(config, 2**20)
    assert found.offload == "leaf" and found.vae_tiling
    assert "no way of holding the weights fits: it may fail" in caplog.text


def test_weights_wait_on_the_disk_beside_a_cpu(config, caplog):
    found = fitted(replace(config, device="cpu", dtype="fp32"), 2**20)
    assert found.offload == "group" and "weights wait on the disk" in caplog.text
