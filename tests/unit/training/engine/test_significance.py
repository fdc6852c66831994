"""A trend is a word that chance does not explain."""

import pytest
import torch
from scipy import stats

from t2v.training.engine.significance import memorised, nearest, paired_change, student, trend


def losses(held_out: float, training: float, seed: int, **more: float):
    """200 clips of very unequal loss, moved by so much on average, by a tenth of that a clip."""
    noise = torch.Generator().manual_seed(seed)
    own = torch.rand(200, generator=torch.Generator().manual_seed(99)) * 10
    moved = {"held_out": held_out, "training": training, **more}
    return {name: own + by + 0.02 * torch.randn(200, generator=noise) for name, by in moved.items()}


@pytest.mark.parametrize(
    ("held_out", "training", "word"),
    [
        (-0.1, -0.1, "learning"),
        (0.1, -0.1, "overfitting"),
        (0.1, 0.1, "worsening"),
        (0.0, 0.0, "flat"),
        (0.0, -0.1, "flat"),
    ],
)
def test_the_word_follows_its_rule(held_out, training, word):
    told = trend([losses(0, 0, 1), losses(held_out, training, 3)])
    assert told.word == word
    assert told.sentence.startswith(f"{word}: held-out loss")


def test_pairs_see_a_change_that_the_means_alone_would_hide():
    before, after = losses(0, 0, 1)["held_out"], losses(-0.01, 0, 2)["held_out"]
    change = paired_change(before, after)
    assert change.fell
    assert change.noise < 0.01 < 2 * (before.var() / 100).sqrt()


@pytest.mark.parametrize("count", [4, 200])
def test_chance_alone_is_called_flat_nineteen_times_in_twenty(count):
    """With two standard errors it would be 86 % of four clips."""

    def clips(seed: int):
        return {name: values[:count] for name, values in losses(0, 0, seed).items()}

    words = [trend([clips(2 * n), clips(2 * n + 1)]).word for n in range(200)]
    assert 0.91 < words.count("flat") / len(words) < 0.99


def test_the_interval_is_that_of_scipy():
    before, after = losses(0, 0, 1)["held_out"], losses(0.01, 0, 2)["held_out"]
    for count in (4, 7, 200):
        found = stats.ttest_rel(after[:count], before[:count]).confidence_interval()
        change = paired_change(before[:count], after[:count])
        assert change.noise == pytest.approx((found.high - found.low) / 2, rel=2e-3)
    assert student(3) == pytest.approx(stats.t.ppf(0.975, 3), rel=2e-3)


def test_the_best_validation_is_what_counts():
    told = trend([losses(0, 0, 1), losses(-1, -1, 2), losses(-0.5, -2, 3)])
    assert told.word == "overfitting"
    assert "since before any step" in told.sentence
    assert told.figures["val_change"] == pytest.approx(0.5, abs=0.01)


def test_three_clips_prove_nothing():
    few = {name: torch.arange(1.0, 4) for name in ("held_out", "training", "base")}
    told = trend([few, {name: value / 2 for name, value in few.items()}])
    assert told.word == "too few clips to tell"
    assert "a verdict takes held_out=4 or more, here 3" in told.sentence
    assert "too few to tell whether it forgets the base prompts" in told.sentence
    assert told.figures == {"val_change": -1, "val_forgotten": -1}
    assert "±" not in told.sentence


def test_what_is_forgotten_is_measured_from_before_any_step():
    history = [losses(0, 0, 1, base=0), losses(-1, -1, 2, base=0.3), losses(-2, -2, 3, base=0.3)]
    told = trend(history)
    assert told.word == "learning"
    assert "forgets the base prompts" in told.sentence
    assert told.figures["val_forgotten"] == pytest.approx(0.3, abs=0.01)
    assert "forgets nothing measurable" in trend([history[0], losses(-1, 0, 4, base=0)]).sentence


def test_a_copy_is_nearer_than_any_new_clip():
    draw = torch.Generator().manual_seed(0)
    training, new = (torch.randn(n, 4, 3, 2, 2, generator=draw) for n in (300, 50))
    copies = training[:4] + 0.1 * torch.randn(4, 4, 3, 2, 2, generator=draw)
    distance = nearest(copies, training)
    torch.testing.assert_close(distance, torch.full((4,), 0.1), atol=0.02, rtol=0)
    assert memorised(distance, nearest(new, training))["val_memorised"] == 1
    own = nearest(torch.randn(50, 4, 3, 2, 2, generator=draw), training)
    assert memorised(own, nearest(new, training))["val_memorised"] < 0.2
