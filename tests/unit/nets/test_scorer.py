"""The towers attend to the tokens that are kept, and a saved scorer answers as before."""

import pytest
import torch

from t2v.config.scorer import TowersConfig
from t2v.errors import UserError
from t2v.nets.scorer import TOKENS, Scorer, ScorerTowers, load_scorer

SIZES = {"channels": 8, "width": 32, "layers": 1, "heads": 2, "dim": 16, "text_dim": 32}


@pytest.fixture
def scorer(tokenizer, text_encoder):
    assert SIZES.keys() - {"text_dim"} == TowersConfig.__dataclass_fields__.keys()
    return Scorer(ScorerTowers(**SIZES), tokenizer, text_encoder).eval()


def test_tokens_left_out_are_not_attended_to(scorer):
    towers = scorer.towers
    video = torch.rand(1, 3, 17, 64, 64) * 2 - 1
    keep = torch.arange(1, TOKENS)[None]
    before = towers.embed_video(video, keep)
    with torch.no_grad():
        towers.place[0, 0] += 9  # of the token that is left out
    assert torch.equal(towers.embed_video(video, keep), before)
    with torch.no_grad():
        towers.place[1, 0] += 9
    assert not torch.allclose(towers.embed_video(video, keep), before)


def test_the_same_frames_in_another_order_look_different(scorer):
    video = torch.rand(1, 3, 17, 64, 64) * 2 - 1
    assert not torch.allclose(
        scorer.towers.embed_video(video), scorer.towers.embed_video(video.flip(2))
    )


def test_any_length_and_size_is_seen_and_pairs_are_scored_one_by_one(scorer):
    video = torch.randint(0, 255, (3, 5, 16, 32, 3), dtype=torch.uint8)
    texts = ["a red ball", "the blue box on the grass", "snow"]
    together = scorer.score(video, texts)
    alone = torch.cat([scorer.score(video[i : i + 1], texts[i : i + 1]) for i in range(3)])
    assert together.shape == (3,) and together.abs().max() <= 1
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_saved_scorer_answers_as_before(scorer, tmp_path):
    scorer.save(tmp_path)
    video = torch.randint(0, 255, (2, 17, 64, 64, 3), dtype=torch.uint8)
    texts = ["a red ball", "the blue box"]
    loaded = load_scorer(str(tmp_path))
    assert torch.equal(loaded.score(video, texts), scorer.score(video, texts))
    score = (loaded.embed_video(video)[:, 0] * loaded.embed_text(texts)).sum(-1)
    assert torch.allclose(score, loaded.score(video, texts), atol=1e-6)


def test_a_folder_without_a_scorer_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no scorer"):
        load_scorer(str(tmp_path))
