"""The oracle learns from windows of clips of any shape, each by the truth of its own scene."""

import json

import pytest
import torch
from safetensors.torch import load_file

from t2v.config.world import WorldClipsConfig, WorldOracleConfig
from t2v.errors import UserError
from t2v.world import oracle_training
from t2v.world.labels import HEADS
from t2v.world.oracle import WorldOracle
from t2v.world.run import _write_shard


@pytest.fixture
def folder(tmp_path):
    """Six clips of 33 frames with two acts each, as `t2v world` writes them."""
    folder = tmp_path / "clips"
    folder.mkdir()
    config = WorldClipsConfig(output=str(folder), count=6, shapes=("33x32x40",), acts=1.0)
    rows = _write_shard(config, 0)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def settings(folder, **more):
    output = str(folder.parent / "oracle")
    return WorldOracleConfig(data=str(folder), output=output, steps=2, batch_size=8, **more)


def test_windows_of_an_act_have_its_truth_and_only_the_first_its_motion(folder):
    windows, truth = oracle_training._gathered(settings(folder), lambda video: video)
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    motions = []
    for row in rows:
        for scene in row["scenes"]:
            motion = HEADS["motion1"][0].index(scene["truth"]["things"][0]["motion"])
            several = scene["end"] - scene["start"] > 17
            motions += [motion, -1] if several else [motion]
    assert windows.shape == (len(motions), 17, 64, 64, 3)
    assert truth["motion1"].tolist() == motions
    assert (truth["colour1"] >= 0).all() and -1 in motions


def test_only_so_many_clips_of_a_shard_are_read(folder):
    windows, _ = oracle_training._gathered(settings(folder, clips_per_shard=2), lambda video: video)
    assert 4 <= len(windows) <= 6


def test_the_body_stays_and_the_heads_learn(folder):
    begun = folder.parent / "begun"
    WorldOracle(width=8).save_pretrained(begun)
    oracle_training.train_oracle(settings(folder, start_from=str(begun), train_body=False))
    before, after = (
        load_file(each / "diffusion_pytorch_model.safetensors")
        for each in (begun, folder.parent / "oracle")
    )
    kept = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert {name for name in before if name.startswith("body")} <= kept
    assert not {"read.0.weight", "heads.motion1.weight", "heads.background.weight"} & kept


def test_a_body_that_stays_must_come_from_somewhere(folder):
    with pytest.raises(UserError, match=r"train_body=false keeps the convolutions.*start_from"):
        settings(folder, train_body=False)
