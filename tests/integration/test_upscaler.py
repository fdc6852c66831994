"""An upscaler trained on the world and on footage, and videos enlarged by it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from t2v.cli import main
from t2v.config.data import ClipsConfig
from t2v.config.models import UpscalerConfig
from t2v.config.training import OptimConfig, TrainUpscalerConfig
from t2v.config.world import WorldClipsConfig
from t2v.errors import UserError
from t2v.evaluation.metrics.upscaling import bicubic
from t2v.footage.frames import iter_frames
from t2v.footage.still import read_picture
from t2v.io.video import read_recipe, read_video, write_video
from t2v.models.upscaler_folder import load_upscaler
from t2v.training.tasks.upscaler import build_upscaler, to_bytes, train_upscaler
from t2v.training.tasks.upscaler_data import Pair
from t2v.world.pairs import WorldPairs
from t2v.world.run import render_world

STEADY = OptimConfig(warmup_steps=2, decay_from=1.0, lr=3e-3, adam_lr=3e-3, ema_decay=0.9)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    render_world(
        WorldClipsConfig(
            output=str(folder / "clips"), count=7, num_frames=5, height=16, width=24, workers=1
        )
    )
    return folder / "clips"


@pytest.fixture
def config(world, vae, tmp_path):
    vae.save_pretrained(tmp_path / "vae")
    return TrainUpscalerConfig(
        device="cpu", output=str(tmp_path / "run"), data=str(world), vae=str(tmp_path / "vae"),
        model=UpscalerConfig(width=8, layers=(1, 1, 1)), steps=4, batch_size=2, window=8,
        window_frames=3, pool=3, pool_steps=3, held_out=2, save_every=2, validate_every=4,
        precision="fp32", optim=STEADY,
    )  # fmt: skip


def weights(checkpoint):
    files = sorted(checkpoint.rglob("*.safetensors"))
    return {f"{f.name}:{n}": each for f in files for n, each in load_file(f).items()}


def test_a_run_that_stopped_goes_on_to_the_same_bits(config, tmp_path):
    whole = train_upscaler(config)
    other = replace(config, output=str(tmp_path / "stopped"))
    train_upscaler(replace(other, steps=2))
    resumed = train_upscaler(other)
    first, second = weights(whole), weights(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = (Path(config.output) / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["val_psnr"] > 5 and last["val_psnr_bicubic"] > 5 and last["val_jerk"] > 0
    assert (Path(config.output) / "sheets").is_dir()


def test_pairs_show_the_same_scene_at_both_sizes(world):
    pairs = WorldPairs(str(world), 4)
    low, high = pairs.pair(3)
    assert low.shape == (5, 16, 24, 3) and high.shape == (5, 64, 96, 3)
    small = high.float().reshape(5, 16, 4, 24, 4, 3).mean((2, 4))
    assert (small - low.float()).abs().mean() < 6
    stored = load_file(world / "clips-00000.safetensors")["video"]
    assert torch.equal(stored[3], low)


def test_small_clips_are_what_a_vae_gives_back_unless_they_are_plain(config):
    def low(**changes):
        return build_upscaler(replace(config, **changes)).batch(0).low

    assert torch.equal(low(plain=1.0), low(vae=None))
    assert not torch.equal(low(plain=0.0), low(vae=None))


def test_training_on_one_scene_beats_bicubic_interpolation(config):
    config = replace(config, vae=None, pool=1, precision="fp32", steps=150)
    task = build_upscaler(replace(config, pool_steps=1000))
    generator, losses = torch.Generator(), []
    optimizer = torch.optim.AdamW(task.model.parameters(), 3e-3)
    for step in range(150):
        loss, _ = task.loss(task.batch(step), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_the_temporal_loss_is_of_flicker_and_not_of_what_stays(config):
    plain, steady = (build_upscaler(replace(config, temporal_weight=each)) for each in (0.0, 1.0))
    low = torch.zeros(1, 3, 5, 8, 8)  # which a fresh upscaler leaves as it is, at any size
    still = torch.full((1, 3, 5, 32, 32), 0.5)
    flicker = still * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]).view(1, 1, 5, 1, 1)
    for high, wanted in ((still, 0.0), (flicker, 1.0 + 2.0)):  # of the change, and of its change
        losses = [task.loss(Pair(low, high), torch.Generator())[0] for task in (plain, steady)]
        assert (losses[1] - losses[0]).item() == pytest.approx(wanted, abs=1e-5)
    with pytest.raises(UserError, match="takes 3 frames"):
        replace(config, temporal_weight=1.0, window_frames=2)


def test_footage_is_made_smaller_and_enlarged_again(config, media):
    clips = ClipsConfig(fps=8, resolution=64, num_frames=5, aspects=("16:9",), lengths=(5,))
    footage = replace(config, data=str(media), clips=clips, vae=None, held_out=1, steps=2)
    task = build_upscaler(footage)
    low, high = task.data.pairs.pair(0)
    assert high.shape == (5, *(4 * side for side in low.shape[1:3]), 3)
    assert (train_upscaler(footage) / "upscaler" / "config.json").is_file()


def test_windows_larger_than_the_clips_are_refused(config):
    with pytest.raises(UserError, match=re.escape("window=32: the least of the small clips")):
        build_upscaler(replace(config, window=32))
    with pytest.raises(UserError, match="window=7: it must be even"):
        replace(config, window=7)
    with pytest.raises(UserError, match="Omit it"):
        build_upscaler(replace(config, clips=ClipsConfig(fps=3)))


@pytest.fixture
def film(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (30, 16, 24, 3), np.uint8)
    write_video(tmp_path / "in.mp4", frames, 7.5, {"prompt": "noise", "settings": {}})
    return tmp_path / "in.mp4"


def test_a_video_of_any_length_is_enlarged_piece_by_piece(config, film, tmp_path, capsys):
    checkpoint = train_upscaler(replace(config, steps=2))
    output = tmp_path / "out.mp4"
    words = [f"upscaler={checkpoint}", "scale=4", "device=cpu"]
    assert main(["upscale", str(film), "-o", str(output), *words]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    assert read_video(output)[1] == 7.5
    assert read_recipe(output) == {"prompt": "noise", "settings": {}, "enlarged": 4}
    large = np.stack([frame for _, frame in iter_frames(output)])
    assert large.shape == (30, 64, 96, 3)
    small = torch.from_numpy(np.stack([frame for _, frame in iter_frames(film)]))
    video = (small.float() / 127.5 - 1).movedim(-1, 0)[None]
    with torch.no_grad():
        whole = to_bytes(load_upscaler(str(checkpoint), torch.float32)(video))[0]
    write_video(tmp_path / "whole.mp4", whole.numpy(), 7.5)
    pairs = zip(iter_frames(tmp_path / "whole.mp4"), large, strict=True)
    assert np.mean([np.abs(ours[1].astype(int) - theirs).mean() for ours, theirs in pairs]) < 0.5
    assert main(["upscale", str(film), *words]) == 0
    assert (tmp_path / "in-4x.mp4").is_file()
    assert main(["upscale", str(film), "-o", str(output), *words]) == 2
    assert "exists already. Choose another, or say overwrite=true" in capsys.readouterr().err
    before = film.read_bytes()
    assert main(["upscale", str(film), "-o", str(film), "overwrite=true", *words]) == 2
    assert "is the input itself" in capsys.readouterr().err and film.read_bytes() == before


def test_a_picture_is_enlarged_into_a_png(config, tmp_path, capsys):
    build_upscaler(config).upscaler.save_pretrained(tmp_path / "upscaler")
    words = [f"upscaler={tmp_path / 'upscaler'}", "device=cpu"]
    small = np.random.default_rng(0).integers(0, 255, (9, 13, 3), np.uint8)
    source = tmp_path / "in.png"
    Image.fromarray(small).save(source)
    assert main(["upscale", str(source), *words]) == 0
    large = torch.from_numpy(read_picture(tmp_path / "in-4x.png").copy())[None, None]
    smooth = bicubic(torch.from_numpy(small)[None, None], 4)  # which a fresh one is
    assert (large.int() - smooth.int()).abs().max() <= 1
    assert main(["upscale", str(source), "-o", str(tmp_path / "out.mp4"), *words]) == 2
    assert "is a picture. Give a name that ends in .png" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


def test_frames_that_do_not_decode_are_warned_of(config, film, tmp_path, capsys):
    build_upscaler(config).upscaler.save_pretrained(tmp_path / "upscaler")
    data, output = film.read_bytes(), tmp_path / "out.mp4"
    film.write_bytes(data[: len(data) * 3 // 4])
    words = [f"upscaler={tmp_path / 'upscaler'}", "-o", str(output)]
    assert main(["upscale", str(film), *words]) == 0
    shown = capsys.readouterr().err
    count = len(read_video(output)[0])
    assert 5 < count < 30
    assert "in.mp4: damaged (decoding stops after" in shown
    assert f"only {count} frames are enlarged" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scale=3"], "scale=3: this upscaler enlarges 4 times. Give scale=4.\n"),
        (["scale=2"], "scale=2: this upscaler enlarges 4 times. Give scale=4, or train another"),
        (["output=x.png"], "is a video. Give a name that ends in .mp4 or .webm"),
        (["scale=1"], "scale=1: nothing to enlarge"),
        (["tile=3"], "tile=3: give an even number of at least 16"),
        (["input=nothing.mp4"], "nothing.mp4"),
        (["input=pyproject.toml"], "pyproject.toml"),
        (["output=x.avi"], "give a name that ends in .mp4, .webm, .mov"),
    ],
)
def test_what_cannot_be_enlarged_is_named(words, message, config, film, tmp_path, capsys):
    upscaler = build_upscaler(config).upscaler
    upscaler.save_pretrained(tmp_path / "upscaler")
    given = [f"input={film}", f"output={tmp_path / 'out.mp4'}", f"upscaler={tmp_path / 'upscaler'}"]
    names = {each.partition("=")[0] for each in words}
    given = [each for each in given if each.partition("=")[0] not in names]
    assert main(["upscale", *given, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


def test_frames_larger_than_the_memory_are_refused_before_they_are_read(
    config, film, tmp_path, capsys, monkeypatch
):
    build_upscaler(config).upscaler.save_pretrained(tmp_path / "upscaler")
    monkeypatch.setattr("t2v.models.device.free_memory", lambda device: 1000)
    words = [f"upscaler={tmp_path / 'upscaler'}", "-o", str(tmp_path / "out.mp4")]
    assert main(["upscale", str(film), *words]) == 2
    assert "input=24x16 scale=4: needs at least" in capsys.readouterr().err
