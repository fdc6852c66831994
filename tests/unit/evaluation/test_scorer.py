"""The scorer learns which text belongs to which video, and is told wrong captions and clips."""

import json

import pytest
import torch

from t2v.config import ScorerConfig
from t2v.errors import UserError
from t2v.evaluation.contrast import counterfactual, goes_somewhere, shuffled
from t2v.evaluation.scorer import TOKENS, load_scorer, scorer_aligner
from t2v.evaluation.suites import load_suite
from t2v.evaluation.train_scorer import batch_loss, build_scorer, train_scorer
from t2v.world.grammar import caption, draw_scene
from t2v.world.labels import HEADS

TINY = {"width": 32, "layers": 1, "heads": 2, "dim": 16, "batch_size": 8, "held_out": 4}


@pytest.fixture
def text(tokenizer, text_encoder, tmp_path):
    tokenizer.save_pretrained(tmp_path / "text" / "tokenizer")
    text_encoder.save_pretrained(tmp_path / "text" / "text_encoder")
    return str(tmp_path / "text")


def test_one_phrase_is_exchanged_and_the_rest_stays():
    generator = torch.Generator().manual_seed(0)
    assert HEADS  # the kinds of the world
    for seed in range(200):
        source = torch.Generator().manual_seed(seed)
        said = caption(draw_scene(source), source)
        wrong = counterfactual(said, generator)
        assert wrong is not None and wrong != said
        assert not any(f" a {vowel}" in f" {wrong}" for vowel in "aeio")
    swapped = counterfactual("a red ball slides to the left on grass", generator, ("motion",))
    assert swapped is not None and "right" in swapped and "red ball" in swapped
    assert counterfactual("an old man laughs", generator) is None
    assert goes_somewhere("a ball floats up") and not goes_somewhere("a ball spins")


def test_a_shuffled_clip_has_the_same_frames_in_another_order():
    video = torch.arange(5).reshape(1, 5, 1, 1, 1).expand(2, 5, 2, 2, 3)
    for seed in range(20):
        mixed = shuffled(video, torch.Generator().manual_seed(seed))
        assert not torch.equal(mixed, video)
        assert torch.equal(mixed.sort(1).values, video)


def test_a_tiny_scorer_learns_a_few_pairs(text, tmp_path):
    config = ScorerConfig(data="x", output=str(tmp_path), text=text, **TINY)
    scorer = build_scorer(config)
    suite = load_suite("motion", 30, 0)
    video, _ = suite.real(8, 32, 32)
    words = ["red", "blue", "ball", "box", "grass", "snow"]
    pairs = video[8::3][:6], [f"a {word}" for word in words]
    optimizer = torch.optim.Adam(scorer.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        loss = batch_loss(scorer, *pairs, 0.5 if step < 40 else 0.0, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    scorer.eval()
    own = scorer.score(*pairs)
    others = scorer.score(pairs[0], [*pairs[1][1:], pairs[1][0]])
    assert losses[-1] < 0.3 * losses[0]
    assert (own > others).all()


def test_masked_tokens_are_not_seen(text, tmp_path):
    towers = build_scorer(ScorerConfig(data="x", output=str(tmp_path), text=text, **TINY)).towers
    video = torch.rand(1, 3, 16, 64, 64) * 2 - 1
    other = video.clone()
    other[:, :, :2, :16, :16] *= -1  # the first token
    keep = torch.arange(1, TOKENS)[None]
    assert torch.equal(towers.see(video, keep), towers.see(other, keep))
    assert not torch.allclose(towers.see(video), towers.see(other))


def test_the_command_trains_saves_and_reports(clips, text, tmp_path):
    config = ScorerConfig(
        data=str(clips), output=str(tmp_path / "scorer"), text=text, steps=2, **TINY
    )
    table = train_scorer(config)
    report = json.loads((tmp_path / "scorer" / "report.json").read_text())
    assert report["n"] == 4 and report["video_r1"]["chance"] == 0.25
    assert set(report) >= {"counterfactual", "motion_swap", "shuffle", "reverse", "text_r5"}
    assert "| counterfactual |" in table
    scorer = load_scorer(str(tmp_path / "scorer"))
    aligner = scorer_aligner(scorer)
    video = torch.randint(0, 255, (2, 5, 16, 32, 3), dtype=torch.uint8)
    texts = ["a red ball", "the blue box"]
    score = (aligner.see(video)[:, 0] * aligner.read(texts)).sum(-1)
    assert torch.allclose(score, scorer.score(video, texts), atol=1e-6)


def test_media_with_captions_are_learned_from_too(media, text, tmp_path):
    for path in [*media.glob("*.png"), *media.glob("*.jpg")]:
        path.unlink()
    config = ScorerConfig(data=str(media), output=str(tmp_path / "s"), text=text, steps=1,
                          **TINY | {"batch_size": 4})  # fmt: skip
    assert "video_r1" in train_scorer(config)


def test_too_few_clips_and_folders_without_a_scorer_are_named(clips, text, tmp_path):
    with pytest.raises(UserError, match="12 clips less held_out=10 leave 2"):
        train_scorer(
            ScorerConfig(
                data=str(clips), output=str(tmp_path), text=text, **TINY | {"held_out": 10}
            )
        )
    with pytest.raises(UserError, match="holds no scorer"):
        load_scorer(str(tmp_path))
    with pytest.raises(UserError, match="no multiple of heads"):
        ScorerConfig(data="x", output="y", width=30, heads=4)
