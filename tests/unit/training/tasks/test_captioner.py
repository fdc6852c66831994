"""A captioner learns to say what a scorer's video tower sees, and is loaded by transformers."""

import json
from dataclasses import replace

import pytest
import torch
from einops import rearrange

from t2v.config.captioner import CaptionerConfig, DecoderConfig
from t2v.config.data import ClipsConfig
from t2v.config.training import OptimConfig
from t2v.errors import UserError
from t2v.evaluation.captioned import Captioned
from t2v.evaluation.captioner_benchmark import benchmark
from t2v.io.checkpoint import newest_checkpoint
from t2v.io.tensor_files import TensorFile
from t2v.nets.captioner import Captioner
from t2v.nets.scorer import FRAMES, SIDE, Scorer, ScorerTowers
from t2v.training.engine.example import Size
from t2v.training.engine.loop import fit, start_state
from t2v.training.tasks.captioner import build_task, train_captioner

COLOURS = ("red", "green", "blue", "white")


@pytest.fixture
def config(tokenizer, text_encoder, tmp_path):
    torch.manual_seed(0)
    towers = ScorerTowers(channels=8, width=32, layers=1, heads=2, dim=8, text_dim=32)
    Scorer(towers, tokenizer, text_encoder).save(tmp_path / "scorer")
    return CaptionerConfig(
        data=str(tmp_path / "clips"),
        output=str(tmp_path / "captioner"),
        encoder=str(tmp_path / "scorer"),
        model=DecoderConfig(width=32, heads=2, vocabulary=300, max_tokens=32),
        optim=OptimConfig(warmup_steps=2, ema_decay=0.5),
        precision="fp32",
        batch_size=4,
        held_out=4,
        steps=2,
    )


@pytest.fixture
def plain():
    """Clips of one colour each."""
    levels = torch.tensor([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 250]] * 2)
    video = rearrange(levels.byte(), "n c -> n 1 1 1 c").repeat(1, FRAMES, SIDE, SIDE, 1)
    return Captioned(video, [(f"a {name} größer 猫",) for name in COLOURS * 2])


def test_it_learns_to_say_what_it_sees(config, plain):
    optim = OptimConfig(warmup_steps=2, ema_decay=0.5, lr=1e-2, adam_lr=1e-2)
    config = replace(config, steps=40, optim=optim)
    task = build_task(config, plain)
    task.prepare()
    losses = [metrics.loss for metrics in fit(task, config, start_state(task, config))]
    assert losses[-1] < 0.3 * losses[0]
    assert task.validate().figures["val_words"] == 1.0
    assert task.validate().losses["held_out"].shape == (4,)


@pytest.mark.parametrize(("encoder_lr", "moves"), [(0.0, False), (1e-3, True)])
def test_the_tower_learns_only_where_a_rate_is_given(config, plain, encoder_lr, moves):
    config = replace(config, encoder_lr=encoder_lr, steps=1)
    task = build_task(config, plain)
    task.prepare()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    list(fit(task, config, start_state(task, config)))
    after = task.model.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == ({"encoder", "decoder"} if moves else {"decoder"})


def test_the_command_trains_and_its_folder_describes_a_clip_as_training_does(config, clips):
    table = train_captioner(config)
    report = json.loads((clips.parent / "captioner" / "report.json").read_text())
    assert report["words"]["n"] == 4 and "| words |" in table
    assert report["captioner"] == str(newest_checkpoint(config.output) / "captioner")
    captioner = Captioner(config.output, "cpu")  # its newest checkpoint
    assert captioner.num_frames == FRAMES and not captioner.takes_chat
    frames = torch.randint(0, 256, (5, SIDE, SIDE, 3), dtype=torch.uint8)
    inputs = captioner._clip(list(frames.numpy()), FRAMES)
    assert inputs["pixel_values"].shape == (1, FRAMES, 3, SIDE, SIDE)
    spread = torch.linspace(0, 4, FRAMES).round().long()
    wanted = rearrange(frames[spread].float() / 127.5 - 1, "t h w c -> 1 t c h w")
    torch.testing.assert_close(inputs["pixel_values"], wanted)
    [said] = captioner.describe(list(frames.numpy()), "ignored", 128)
    assert said == captioner.describe(list(frames.numpy()), "", 31)[0]  # there is no room for more


def test_one_and_one_steps_equal_two_to_the_bit(config, clips):
    train_captioner(config)
    other = replace(config, output=f"{config.output}-2", save_every=1)
    train_captioner(replace(other, steps=1))
    train_captioner(other)
    one, two = (
        TensorFile(newest_checkpoint(each.output) / "captioner" / "model.safetensors")
        for each in (config, other)
    )
    names = list(one)
    assert names and all(torch.equal(one[name], two[name]) for name in names)


def test_an_example_is_a_batch_that_a_step_takes(config, plain):
    task = build_task(config, plain)
    batch = task.example_batch(Size(batch=3, frames=FRAMES, height=SIDE, width=SIDE))
    assert batch.seen.shape == (3, FRAMES, SIDE, SIDE, 3)
    assert task.loss(batch, torch.Generator())[0].isfinite()


def test_what_cannot_be_trained_is_named(config, plain, tmp_path):
    with pytest.raises(UserError, match=r"encoder=.*holds no scorer.*t2v scorer"):
        build_task(replace(config, encoder=str(tmp_path)), plain)
    with pytest.raises(UserError, match="8 clips less held_out=5 leave 3"):
        build_task(replace(config, held_out=5), plain)
    long = Captioned(plain.video, [("word " * 99,)] * 8)
    with pytest.raises(UserError, match=r"a caption has \d+ tokens.*max_tokens=32"):
        build_task(replace(config, model=replace(config.model, vocabulary=259)), long)
    with pytest.raises(UserError, match="259 are needed"):
        DecoderConfig(vocabulary=100)
    with pytest.raises(UserError, match="no multiple of heads"):
        DecoderConfig(width=30)
    with pytest.raises(UserError, match="one size and length"):
        replace(config, clips=ClipsConfig(fps=4))


def test_the_benchmark_has_known_answers():
    truth = [
        ("a red ball rises on grass", "on the grass, a red sphere floats up"),
        ("a small blue cube rests at night", "a tiny blue box lies under the stars"),
    ]
    said = ["a red sphere rises on the grass", "a big blue cube rests at night"]
    found = benchmark(said, truth, 0)
    # of the second clip size is wrong: 4 + 4 of 4 + 4 + 5 + 5, twice 8 of 18
    assert found["attributes"]["value"] == pytest.approx(16 / 18)
    assert found["attributes: size"]["value"] == 0 and found["attributes: colour"]["value"] == 1
    assert found["meaning"]["value"] == 0.5 and found["attributes"]["ceiling"] == 1
    assert found["words"]["value"] == pytest.approx((6 / 8 + 8 / 10) / 2)
    assert found["entities"]["value"] == 1  # a sphere is a ball
    of_others = benchmark(["a dog on a sofa"], [("a cat on a sofa",)], 0)
    assert set(of_others) == {"words", "entities"} and of_others["entities"]["value"] == 0.5
