"""Trainings whose batches hold clips of any shape, end to end."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t2v.config.data import ClipsConfig
from t2v.config.training import MaskingConfig, TasksConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.training.tasks.dit import build_dit, train_dit
from t2v.training.tasks.packing import packed_losses


@pytest.fixture
def config(dit_config, media):
    """Wide and tall clips of 9 frames, wide ones of 5, and pictures that no step sees."""
    clips = ClipsConfig(fps=8, resolution=64, num_frames=9, workers=1)
    model = replace(dit_config.model, conditioning="tokens")
    return replace(
        dit_config, data=str(media), clips=clips, pack=True, batch_size=4, held_out=2,
        model=model, tasks=TasksConfig(text=1, first=1, frames=1), validate_every=4,
    )  # fmt: skip


def weights_of(checkpoint):
    paths = sorted(Path(checkpoint).rglob("*.safetensors"))
    return [tensor for path in paths for _, tensor in sorted(load_file(path).items())]


def test_packed_and_resumed_equals_packed_to_the_bit(config, tmp_path):
    whole = train_dit(config)
    other = replace(config, output=str(tmp_path / "other"))
    train_dit(replace(other, steps=2))
    pairs = zip(weights_of(whole), weights_of(train_dit(other)), strict=True)
    assert all(torch.equal(one, same) for one, same in pairs)


def test_the_loss_of_each_packed_clip_is_its_own(config):
    task = build_dit(config)
    generator = keyed_generator(0, "wake")
    for weight in task.model["transformer"].parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    shapes = []
    for step in range(4):
        batch = task.batch(step)
        shapes.append({tuple(part.latents.shape[2:]) for part in batch.parts})
        assert sum(len(part.latents) for part in batch.parts) == 4
        packed = packed_losses(task, batch, keyed_generator(step, "noise"))
        generator = keyed_generator(step, "noise")
        alone = []
        for part in batch.parts:
            t = torch.randn(len(part.latents), generator=generator).sigmoid()
            t = task.shift * t / (1 + (task.shift - 1) * t)
            noise = torch.randn(part.latents.shape, generator=generator)
            alone.append(task._losses(part, noise, t))
        torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)
        assert packed.detach().unique().numel() == 4
    assert max(map(len, shapes)) > 1  # and all are of one in buckets
    assert len({len(task.data.train.batch(step).indices) for step in range(4)}) == 1


def test_what_cannot_be_packed_is_told(dit_config, config):
    for wrong, said in (
        ({"masking": MaskingConfig(ratio=0.5)}, "masking.ratio=0.5: packed clips are whole. "),
        ({"compile": True}, "compile=true: packed clips are not compiled. "),
        (
            {"tasks": TasksConfig(ends=1)},
            "tasks.ends=1: packed clips are given no pictures beside them. ",
        ),
    ):
        name = said.partition("=")[0]
        with pytest.raises(UserError) as refused:
            replace(dit_config, pack=True, **wrong)
        assert str(refused.value) == f"pack=true {said}Leave out pack, or {name}."
    model = replace(dit_config.model, attention="factorized")
    with pytest.raises(UserError, match=r"attention=full .*attention=factorized"):
        build_dit(replace(dit_config, model=model, pack=True))
