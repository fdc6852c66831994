"""The ladder of `t2v plan`: each rung needs less than every faster one, and the choice fits."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from t2v.cli import main
from t2v.config.plan import PlanConfig
from t2v.errors import UserError
from t2v.plan.devices import rates_of
from t2v.plan.figures import DEFAULTS, GIB, SPARE
from t2v.plan.ladder import Link, choose, ladder_of
from t2v.plan.models import CARDS, models, models_report, on_device
from t2v.plan.parts import part_of

from .plan_cards.make import traced

CARD = DEFAULTS["cuda"]
LINK = Link(host=25e9, memory=1e12)
RATES = rates_of(132, 1008)
MEMORIES = (4, 8, 12, 16, 24, 48, 80, 200)


@pytest.fixture(scope="module")
def estimates():
    return {each.title: on_device(each.estimate, RATES) for each in models()}


def test_each_rung_needs_less_memory_and_more_time_than_every_faster_one(estimates):
    for estimate in estimates.values():
        rungs = ladder_of(estimate, CARD, LINK)
        needs, seconds = [r.needs.most for r in rungs], [r.seconds for r in rungs]
        assert len(rungs) >= 3 and rungs[0].factor == 1 and not rungs[0].settings
        assert needs == sorted(needs, reverse=True) and len(set(needs)) == len(needs)
        assert seconds == sorted(seconds)
        for memory in MEMORIES:
            free = SPARE * memory * GIB
            fitting = [rung for rung in rungs if rung.needs.most <= free]
            fastest = min(fitting, key=lambda rung: rung.seconds, default=None)
            assert choose(rungs, free) == fastest


def test_a_slow_link_and_no_main_memory_call_for_rounded_weights(estimates):
    large = estimates["Wan 2.1 T2V 14B"]
    rungs = ladder_of(large, CARD, LINK)
    assert choose(rungs, SPARE * 24 * GIB).settings["offload"] == "group"
    assert choose(rungs, SPARE * 24 * GIB, host=8 * GIB) is None
    apart = ladder_of(large, CARD, LINK, offloads=False)
    kinds = [rung.settings.get("quantize", "none") for rung in apart]
    assert {"none", "fp8", "nf4"} <= set(kinds) and all(rung.host == 0 for rung in apart)
    assert [rung.exact for rung in apart] == [kind == "none" for kind in kinds]
    slow = ladder_of(large, CARD, replace(LINK, host=1e8))
    rounded = choose(slow, SPARE * 24 * GIB)
    assert rounded.settings == {"offload": "text", "quantize": "fp8"} and not rounded.host


def test_a_part_is_counted_by_its_blocks_and_layers():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(100, 8)
            self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 16)])
            self.norm = nn.LayerNorm(8)

    with torch.device("meta"):
        part = part_of("text_encoder", Network().half())
    linear = 2 * (8 * 8 + 8), 2 * (8 * 16 + 16)
    assert part.weights == 2 * (800 + 16) + sum(linear)
    assert (part.block, part.rest, part.matrices) == (linear[1], 2 * 816, sum(linear))
    assert (part.linear, part.other, part.leaf, part.wide) == (linear[1], 1600, 1600, 2)


def test_public_models_are_listed_for_a_card(capsys):
    fits = {}
    for memory in (8, 12, 16, 24, 80):
        assert main(["plan", "models", f"memory={memory}"]) == 0
        lines = capsys.readouterr().out.splitlines()
        rows = [next(line for line in lines if line.startswith(m.title)) for m in models()]
        fits[memory] = {row[:22] for row in rows if "too large" not in row}
        assert len(rows) >= 12 and all(" +- " in row or "too large" in row for row in rows)
    sizes = [len(each) for each in fits.values()]
    assert sizes == sorted(sizes) and 0 < sizes[0] < sizes[3]


def test_what_plan_models_cannot_take_is_one_message():
    with pytest.raises(UserError, match="memory: give the GiB of the card"):
        models_report(PlanConfig(command="models"))
    with pytest.raises(UserError, match=r"height, verify: .* usual size"):
        models_report(PlanConfig(command="models", memory=8, height=64, verify=True))


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi asks for fp32
@pytest.mark.slow  # each is some 20,000 operations without content, at .2 ms
@pytest.mark.parametrize("name", sorted(path.stem for path in CARDS.glob("*.json")))
def test_a_card_holds_what_a_trace_of_its_config_files_gives(name):
    card = json.loads((CARDS / f"{name}.json").read_text())
    assert traced(card) == card["traced"]
