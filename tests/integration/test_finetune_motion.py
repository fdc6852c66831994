"""`t2v finetune method=motion` on one tiny clip: its colourings, what learns, what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from t2v.config.data import ClipsConfig
from t2v.config.finetune import FinetuneConfig
from t2v.config.training import OptimConfig, SheetConfig, TasksConfig
from t2v.errors import UserError
from t2v.models.folder import weights_hash
from t2v.pipelines.t2v import T2VPipeline
from t2v.plan.estimate import estimate
from t2v.plan.trace import UNKNOWN
from t2v.training.engine.example import Size
from t2v.training.tasks.finetune import build_finetune, finetune
from t2v.training.tuning.motion import FOLDER, colourings


@pytest.fixture
def config(pipe, media, tmp_path):
    pipe.register_to_config(num_frames=5, height=32, width=32)
    pipe.transformer.take_known(picture_tokens=False)
    pipe.save_pretrained(tmp_path / "base")
    (tmp_path / "one").mkdir()
    for name in ("1.mp4", "1.txt"):
        shutil.copy(media / name, tmp_path / "one")
    return FinetuneConfig(
        device="cpu", model=str(tmp_path / "base"), data=str(tmp_path / "one"),
        output=str(tmp_path / "tuned"), method="motion", steps=4, batch_size=3, save_every=2,
        validate_every=4, precision="fp32", caption_dropout=0.0, known_dropout=0.0,
        tasks=TasksConfig(text=0, first=1), sheet=SheetConfig(steps=1),
        optim=OptimConfig(name="adamw", adam_lr=3e-2, warmup_steps=1, ema_decay=0.5),
    )  # fmt: skip


def latents(pipe, prompt="it", **given) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, generator=generator, output_type="latent", **given).frames


def test_tokens_of_the_frames_learn_alone_and_the_base_stays(config):
    before = weights_hash(Path(config.model))
    checkpoint = finetune(config)
    assert weights_hash(Path(config.model)) == before
    (file,) = checkpoint.glob("*.safetensors")
    (tokens,) = load_file(file).values()
    assert tokens.shape[0] == 2 * 2 + 2  # two latent frames, and what all see
    base, tuned = (T2VPipeline.from_pretrained(each) for each in (config.model, checkpoint))
    assert tuned.transformer.config.frame_tokens == [2, 2, 1]
    picture = np.full((32, 32, 3), 90, dtype=np.uint8)
    plain = latents(base, image=picture)
    moved = latents(tuned, image=picture)
    assert torch.equal(plain[:, :, :1], moved[:, :, :1])  # the first frame is the picture
    assert not torch.allclose(plain[:, :, 1:], moved[:, :, 1:], atol=1e-4)
    assert latents(tuned, image=picture, num_frames=9).shape[2] == 3  # of another length too


def test_two_and_two_steps_equal_four_to_the_bit(config, tmp_path):
    whole = finetune(config)
    other = replace(config, output=str(tmp_path / "other"))
    finetune(replace(other, steps=2))
    shutil.rmtree(config.data)  # its colourings are kept
    resumed = finetune(other)
    tensors = [load_file(next(each.glob("*.safetensors"))) for each in (whole, resumed)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_a_clip_is_learned_in_twelve_colourings(config):
    task = build_finetune(config)
    assert task.data.count == 11 and len(task.data.rows) == 12
    folder = Path(config.output) / FOLDER
    video = load_file(folder / "clips-00000.safetensors")["video"]
    assert torch.equal(video, colourings(video[0]))
    assert len({each.numpy().tobytes() for each in video}) == 12
    assert torch.equal(video.float().std(1).mean() * 0 + video[6].int(), 255 - video[0].int())
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert [row.get("split") for row in rows] == [None] * 11 + ["held_out"]
    assert {name for name, p in task.model.named_parameters() if p.requires_grad} == {
        "transformer.condition_embedder.prefix.tokens"
    }


def test_a_plan_counts_the_tokens(config):
    size = Size(batch=3, frames=5, height=32, width=32, tokens=4)
    tokens = build_finetune(config).model["transformer"].condition_embedder.prefix.tokens
    assert estimate(config, size, UNKNOWN).gradients == tokens.nbytes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": TasksConfig()}, "the first frame has to tell what moves"),
        ({"tasks": TasksConfig(text=1, first=1)}, r"tasks.text=0 and tasks.first=1"),
        ({"clips": ClipsConfig(num_frames=6)}, "4k|multiple|num_frames"),
    ],
)
def test_what_cannot_work_is_named(config, change, words):
    with pytest.raises(UserError, match=words):
        build_finetune(replace(config, **change))


def test_another_number_of_clips_is_refused(config, media):
    with pytest.raises(UserError, match="learns the motion of one clip, and data="):
        build_finetune(replace(config, data=str(media)))


@pytest.mark.parametrize("change", [{"motion_tokens": -1}, {"shared_tokens": 65}])
def test_numbers_of_tokens_have_limits(config, change):
    with pytest.raises(UserError, match="it must be from 0 to 64"):
        replace(config, **change)
    with pytest.raises(UserError, match="nothing would learn"):
        replace(config, motion_tokens=0, shared_tokens=0)
