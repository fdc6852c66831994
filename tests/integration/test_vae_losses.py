"""A VAE that learns by features and against a discriminator."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from t2v.config.training import DiscriminatorConfig
from t2v.errors import UserError
from t2v.models.vae import AutoencoderKLT2V
from t2v.plan.estimate import estimate
from t2v.plan.trace import UNKNOWN
from t2v.training.engine.example import Size
from t2v.training.tasks.vae import build_vae, train_vae
from t2v.world.oracle import WorldOracle

PLAYING = DiscriminatorConfig(weight=0.5, start=1, alone=2, width=4)


@pytest.fixture
def judge(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        WorldOracle(width=4).save_pretrained(tmp_path / "judge")
    return str(tmp_path / "judge")


@pytest.fixture
def config(vae_config, judge):
    return replace(
        vae_config, perceptual=judge, discriminator=PLAYING, accumulate=2, steps=5,
        precision="fp32", image_ratio=0.5, held_out=3,
    )  # fmt: skip


def tensors(checkpoint):
    return {
        f"{path.relative_to(checkpoint)}:{name}": tensor
        for path in sorted(checkpoint.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def lines(checkpoint):
    text = (checkpoint.parent / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_stopped_game_goes_on_to_the_bit(config, tmp_path):
    task = build_vae(config)
    assert {task.batch(step).video.shape[2] for step in range(config.steps)} == {1, 5}
    whole = train_vae(config)
    other = replace(config, output=str(tmp_path / "other"))
    train_vae(replace(other, steps=3))
    resumed = train_vae(other)
    a, b = tensors(whole), tensors(resumed)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert any("discriminator.layers.0.weight/exp_avg" in name for name in a)
    for line, again in zip(lines(whole), lines(resumed), strict=True):
        for name in ("loss", "perceptual", "discriminator", "adversary", "adversary_weight"):
            assert line.get(name) == again.get(name)
    assert ["discriminator" in line for line in lines(whole)] == [False, True, True, True, True]
    heard = [line.get("adversary_weight", 0) > 0 for line in lines(whole)]
    assert heard == [False, False, False, True, True]
    AutoencoderKLT2V.from_pretrained(whole / "vae")


def test_a_discriminator_that_never_begins_changes_nothing(config, tmp_path):
    ends = []
    for name, game in (("never", replace(PLAYING, start=5)), ("none", DiscriminatorConfig())):
        output = str(tmp_path / name)
        ends.append(tensors(train_vae(replace(config, output=output, discriminator=game))))
    never, none = ends
    learned = [name for name in none if name.startswith("vae/")]
    assert learned and all(torch.equal(never[name], none[name]) for name in learned)


def test_the_distance_of_features_counts_and_its_network_is_on_record(config, judge):
    told = {}
    for weight in (0.0, 2.0):
        task = build_vae(replace(config, perceptual_weight=weight))
        told[weight] = task.loss(task.batch(0), torch.Generator().manual_seed(0))
    (plain, _), (loss, figures) = told.values()
    assert figures["perceptual"] > 0
    torch.testing.assert_close(loss - plain, 2 * figures["perceptual"])
    checkpoint = train_vae(replace(config, steps=1))
    sources = json.loads((checkpoint / "training/state.json").read_text())["sources"]
    assert sources["perceptual"].startswith("world oracle ")
    assert lines(checkpoint)[-1]["val_perceptual"] > 0
    torch.manual_seed(1)
    WorldOracle(width=4).save_pretrained(judge)
    with pytest.raises(UserError, match="perceptual: world oracle"):
        train_vae(config)


def test_a_plan_counts_the_discriminator_and_names_what_it_does_not_count(config):
    size = Size(batch=1, frames=5, height=16, width=32)
    alone = estimate(replace(config, discriminator=DiscriminatorConfig()), size, UNKNOWN)
    both = estimate(config, size, UNKNOWN)
    played = build_vae(config).model.get_submodule("discriminator").parameters()
    assert both.parameters["discriminator"] == sum(each.numel() for each in played)
    assert both.phases[0].flop > alone.phases[0].flop
    assert both.absent == (f"the network of features: perceptual={config.perceptual}",)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"weight": -1.0}, "weight=-1"), ({"lr": 0.0}, "lr=0"), ({"width": 0}, "width=0")],
)
def test_settings_of_a_game_that_cannot_be_played_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        DiscriminatorConfig(**change)
