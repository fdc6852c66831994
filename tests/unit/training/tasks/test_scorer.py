"""The scorer learns which text belongs to which video, and that wrong ones do not."""

import json
from dataclasses import replace

import pytest
import torch

from t2v.config.data import ClipsConfig
from t2v.config.scorer import ScorerConfig, TowersConfig
from t2v.config.training import OptimConfig
from t2v.errors import UserError
from t2v.evaluation.captioned import Captioned, read_captioned
from t2v.evaluation.suites import load_suite
from t2v.io.checkpoint import newest_checkpoint
from t2v.nets.scorer import FRAMES, SIDE, load_scorer
from t2v.training.engine.example import Size
from t2v.training.engine.loop import fit, start_state
from t2v.training.tasks.scorer import ScorerBatch, build_task, train_scorer, wrong_clips
from t2v.world.render import render

WORDS = ["red", "blue", "ball", "box", "grass", "snow"]


@pytest.fixture
def config(tokenizer, text_encoder, tmp_path):
    tokenizer.save_pretrained(tmp_path / "text" / "tokenizer")
    text_encoder.save_pretrained(tmp_path / "text" / "text_encoder")
    return ScorerConfig(
        data=str(tmp_path / "clips"),
        output=str(tmp_path / "scorer"),
        text=str(tmp_path / "text"),
        model=TowersConfig(channels=8, width=32, layers=1, heads=2, dim=16),
        optim=OptimConfig(warmup_steps=2, ema_decay=0.9),
        batch_size=8,
        held_out=4,
        steps=4,
    )


@pytest.fixture
def pairs():
    moving = load_suite("motion", 30, 0).scenes[6::2]
    video = torch.stack([render(scene)[0] for scene in moving])
    return Captioned(video, [(f"a {word}",) for word in (*WORDS, *WORDS)])


def test_a_tiny_scorer_learns_a_few_pairs(config, pairs):
    config = replace(config, batch_size=4, steps=25, masked=0.25)
    task = build_task(config, pairs[:8])
    state = start_state(task, config)
    losses = [metrics.loss for metrics in fit(task, config, state)]
    task.model.eval()
    own = task.model.score(pairs.video[:4], [f"a {word}" for word in WORDS[:4]])
    others = task.model.score(pairs.video[:4], [f"a {word}" for word in WORDS[1:5]])
    assert losses[-1] < 0.5 * losses[0]
    assert (own > others).all()


def test_a_caption_and_a_clip_learn_to_beat_themselves_when_wrong(config, pairs):
    task = build_task(replace(config, precision="fp32", wrong_clips=1.0), pairs)
    says = ["a red ball bounces on the grass", "a red ball rests on the grass", "an old man laughs"]
    batch = ScorerBatch(pairs.video[:3], says, 0.0)
    optimizer = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    first = None
    for _ in range(12):
        losses = task.losses(batch, torch.Generator().manual_seed(0))
        assert losses["captions"][2] == 0  # nothing of the world can be exchanged
        assert losses["clips"][1] == 0  # what rests looks the same in disorder
        asked = torch.cat((losses["captions"][:2], losses["clips"][::2]))
        first = asked.detach() if first is None else first
        optimizer.zero_grad()
        asked.sum().backward()
        optimizer.step()
    assert (asked < 0.5 * first).all()


def test_captions_that_mean_the_same_are_no_wrong_pairs(config, pairs):
    task = build_task(replace(config, precision="fp32"), pairs)
    with torch.no_grad():
        task.model.towers.bias.fill_(50.0)
    one, same = "a red ball rests on grass", "on the grass, a red sphere lies"
    for other, least in ((same, 0.0), ("a red ball rests on sand", 20.0)):
        batch = ScorerBatch(pairs.video[:2], [one, other], 0.0)
        found = task.losses(batch, torch.Generator())["pairs"]
        assert ((found >= least) & (found < least + 100)).all()
        assert bool(least) or (found < 0.01).all()


def test_what_is_false_backwards_is_shown_backwards_too():
    video = torch.arange(0, 250, 50, dtype=torch.uint8).reshape(1, 5, 1, 1, 1).expand(8, 5, 1, 1, 3)
    there = ["a ball rises at dusk"] * 4 + ["a cube spins at dusk"] * 2 + ["a cube rests at dusk"]
    rows, mixed = wrong_clips(video, [*there, "laughs"], 1.0, torch.Generator().manual_seed(1))
    assert rows.tolist() == [0, 1, 2, 3, 4, 5, 7]
    backwards = (mixed == video[:1].flip(1)).all((1, 2, 3, 4))
    assert 0 < backwards[:4].sum() < 4 and not backwards[4:].any()
    assert len(wrong_clips(video, [*there, "laughs"], 0.25, torch.Generator())[0]) == 2


def test_an_example_is_a_batch_of_its_size_that_a_step_takes(config, pairs):
    task = build_task(replace(config, precision="fp32"), pairs)
    batch = task.example_batch(Size(batch=3, frames=FRAMES, height=SIDE, width=SIDE))
    loss, _ = task.loss(batch, torch.Generator().manual_seed(0))
    assert batch.video.shape == (3, *pairs.video.shape[1:])
    assert loss.isfinite()


def test_the_command_trains_saves_and_reports(config, clips):
    table = train_scorer(config)
    report = json.loads((clips.parent / "scorer" / "report.json").read_text())
    assert report["n"] == 4 and report["video_r1"]["chance"] == 0.25
    assert set(report) >= {"counterfactual", "counterfactual: direction", "reverse: travel"}
    assert "| counterfactual |" in table and report["test"] == str(clips)
    assert report["scorer"] == str(newest_checkpoint(config.output))
    load_scorer(report["scorer"])
    assert train_scorer(config) == table  # nothing is left to train


def test_other_clips_can_be_the_test(config, clips):
    table = train_scorer(replace(config, steps=1, test=str(clips)))
    assert "| video_r1 |" in table and "| 12 |" in table


def test_two_and_two_steps_equal_four_to_the_bit(config, clips):
    train_scorer(config)
    whole = load_scorer(str(newest_checkpoint(config.output))).state_dict()
    other = replace(config, output=f"{config.output}-2", save_every=2)
    train_scorer(replace(other, steps=2))
    train_scorer(other)
    parts = load_scorer(str(newest_checkpoint(other.output))).state_dict()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_a_text_encoder_that_does_not_learn_stays_as_it_is(config, pairs):
    config = replace(config, text_lr=0.0, steps=1)
    task = build_task(config, pairs)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    list(fit(task, config, start_state(task, config)))
    after = task.model.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"towers"}


def test_convolutions_that_do_not_learn_stay_as_they_are(config, clips):
    config = replace(config, steps=1)
    train_scorer(config)
    begun = str(newest_checkpoint(config.output))
    later = replace(config, output=f"{config.output}-2", start_from=begun, train_stem=False)
    train_scorer(later)
    before, after = (
        load_scorer(str(newest_checkpoint(each.output))).state_dict() for each in (config, later)
    )
    kept = {name for name in before if torch.equal(before[name], after[name])}
    stem = {name for name in before if ".stem." in name}
    assert stem <= kept and any("towers.blocks" in name for name in before.keys() - kept)


def test_media_with_captions_are_learned_from_too(config, media):
    for path in [*media.glob("*.png"), *media.glob("*.jpg")]:
        path.unlink()
    table = train_scorer(replace(config, data=str(media), batch_size=4, steps=1))
    assert "video_r1" in table and "shuffle" not in table  # no word of the world's motions
    first = min(media.glob("*.txt"))
    first.unlink()
    with pytest.raises(UserError, match=rf"1 of its \d+ clips have no caption.*{first.stem}\."):
        train_scorer(replace(config, data=str(media), steps=2))


def test_what_cannot_be_trained_is_named(config, clips):
    with pytest.raises(UserError, match="12 clips less held_out=10 leave 2"):
        train_scorer(replace(config, held_out=10))
    with pytest.raises(UserError, match=r"no multiple of model\.heads"):
        replace(config, model=TowersConfig(width=40, heads=3))
    with pytest.raises(UserError, match="multiples of 8"):
        replace(config, model=TowersConfig(channels=12))
    with pytest.raises(UserError, match=r"train_stem=false keeps the convolutions.*Add start_from"):
        replace(config, train_stem=False)
    with pytest.raises(UserError, match="wrong_clips=0"):
        replace(config, wrong_clips=0.0)
    with pytest.raises(UserError, match="one size and length"):
        replace(config, clips=ClipsConfig(fps=4))


def test_left_out_words_are_not_read_and_what_makes_a_caption_wrong_stays(config, pairs):
    task = build_task(replace(config, precision="fp32", masked_words=0.5, wrong_captions=8), pairs)
    says = ["a red ball bounces on the grass"] * 8
    batch = task.read(0)._replace(captions=says)
    read = []
    embed = task.model.embed_text
    task.model.embed_text = lambda texts: read.append(texts) or embed(texts)
    losses = task.losses(batch, torch.Generator().manual_seed(0))
    assert batch.masked_words == 0.5 and task.read(3).masked_words == 0
    assert all(each.isfinite().all() for each in losses.values())
    texts = [text.split() for text in read[0]]
    for shown, whole in zip(texts, says, strict=False):
        rest = iter(whole.split())
        assert shown and all(word in rest for word in shown)
    assert len(texts) > 30 and all(set(text) - set(says[0].split()) for text in texts[8:])
    counts = [len(text) for text in texts[:8]]
    assert 1 < sum(counts) / 8 < 6
    torch.testing.assert_close(
        task.losses(batch, torch.Generator().manual_seed(0)), losses
    )  # a function of the generator
    with pytest.raises(UserError, match=r"masked_words=1\.0"):
        replace(config, masked_words=1.0)


def test_candidates_that_were_not_taken_are_learned_to_be_worse(config, pairs, clips):
    says = ["an old dog laughs"] * 3
    rejected = (("a young dog laughs", "an old cat laughs"), (), ("a red box",))
    task = build_task(replace(config, precision="fp32", wrong_captions=2), pairs)
    batch = ScorerBatch(pairs.video[:3], says, 0.0, rejected=rejected)
    optimizer = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    first = None
    for _ in range(12):
        found = task.losses(batch, torch.Generator().manual_seed(0))["captions"]
        first = found.detach() if first is None else first
        optimizer.zero_grad()
        found.sum().backward()
        optimizer.step()
    assert first[1] == 0  # nothing is known to be wrong of it
    assert (found[[0, 2]] < 0.5 * first[[0, 2]]).all()
    manifest = clips / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[0]["candidates"] = [
        {"author": "model:a", "text": rows[0]["caption"]},
        {"author": "model:b", "text": "a cat"},
        {"author": "filename", "text": "film 1"},
        {"author": "model:c", "text": "a dog", "verdict": "matches the pictures by 0.1 < 0.2"},
        {"author": "model:d", "text": "frame 1: a dog", "verdict": "frame by frame"},
        {"text": 3},
        "nonsense",
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_captioned(str(clips), 12).rejected[:2] == [("a cat", "a dog"), ()]
