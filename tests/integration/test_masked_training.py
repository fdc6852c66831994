"""Trainings whose steps leave tokens out, end to end."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t2v.config.training import MaskingConfig, TasksConfig
from t2v.pipelines.t2v import T2VPipeline
from t2v.plan.estimate import estimate
from t2v.plan.trace import UNKNOWN
from t2v.training.engine.example import Size
from t2v.training.tasks.dit import build_dit, train_dit


def weights_of(checkpoint):
    paths = sorted(Path(checkpoint).rglob("*.safetensors"))
    return [tensor for path in paths for _, tensor in sorted(load_file(path).items())]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights_of(one), weights_of(other), strict=True))


SOME, ALL = "with tokens left out", "forward and backward"
MASKING = MaskingConfig(ratio=0.5, whole_blocks=(0, 1), words=0.3, until=0.7)


@pytest.mark.parametrize("form", ["route", "drop"])
def test_masked_and_resumed_equals_masked_to_the_bit(dit_config, tmp_path, form):
    tasks = TasksConfig(text=0.3, first=1, ends=1, region=1, frames=1, pictures=1)
    model = replace(dit_config.model, conditioning="tokens", picture_tokens=True)
    config = replace(
        dit_config, tasks=tasks, model=model, steps=6, masking=replace(MASKING, form=form)
    )
    whole = train_dit(config)
    other = replace(config, output=str(tmp_path / "other"))
    train_dit(replace(other, steps=3))  # all of them are among the masked ones of six, too
    assert same(whole, train_dit(other))
    plain = replace(config, output=str(tmp_path / "plain"), masking=MaskingConfig())
    assert not same(whole, train_dit(plain))
    assert T2VPipeline.from_pretrained(whole).transformer.config.attention == "full"


def test_the_last_steps_see_everything(dit_config):
    task = build_dit(replace(dit_config, steps=10, masking=MASKING))
    kept = [task.read(step).kept for step in range(10)]
    assert [each is None for each in kept] == [False] * 7 + [True] * 3
    sizes = task.read(0).latents.shape
    assert kept[0].shape[1] * 2 == sizes[2] * sizes[3] * sizes[4] // 4


def test_a_plan_counts_the_masked_steps_and_the_whole_ones(dit_config):
    size = Size(batch=2, frames=5, height=32, width=32, tokens=6)
    model = replace(dit_config.model, num_layers=4, conditioning="tokens")
    config = replace(dit_config, model=model, tasks=TasksConfig(first=1), steps=10, accumulate=2)
    phases = estimate(replace(config, masking=MASKING), size, UNKNOWN).phases
    masked, whole = (next(each for each in phases if each.name == name) for name in (SOME, ALL))
    assert (masked.times, whole.times) == (14, 3)
    assert 0.5 < masked.flop / whole.flop < 0.9 and masked.peak < whole.peak
    always = replace(config, masking=replace(MASKING, until=1.0, form="drop"), tasks=TasksConfig())
    names = {each.name: each.times for each in estimate(always, size, UNKNOWN).phases}
    assert names[SOME] == 20 and ALL not in names
