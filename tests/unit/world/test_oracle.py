"""The oracle of the world reads clips of any length and size, at their own rate and unstretched."""

import pytest
import torch
from torch.nn import functional as F

from t2v.data.world_shards import pixels
from t2v.world.grammar import Scene, Thing
from t2v.world.labels import HEADS
from t2v.world.oracle import WorldOracle, fitted, windows
from t2v.world.render import render


@pytest.fixture
def oracle():
    return WorldOracle(width=8).eval()


def clip(height: int = 64, width: int = 64, num_frames: int = 17) -> torch.Tensor:
    thing = Thing(shape="cube", colour="red", size="medium", motion="left")
    scene = Scene(things=(thing,), background="sea", camera="still")
    return pixels(render(scene, num_frames, height, width)[0][None])


def test_the_oracle_takes_any_length_and_size(oracle):
    answers = oracle.classify(torch.rand(2, 3, 9, 32, 48) * 2 - 1)
    assert [set(answer) for answer in answers] == [set(HEADS)] * 2


def test_a_clip_of_its_own_size_is_read_as_it_is(oracle):
    video = clip()
    assert fitted(video) is video
    for name, logits in oracle.logits(video).items():
        assert torch.equal(logits, oracle(video)[name])


def test_windows_are_at_the_rate_of_the_clip_and_end_with_it():
    video = torch.arange(40.0).expand(1, 3, 1, 1, 40).transpose(2, 4)
    firsts = [window[0, 0, 0, 0, 0].item() for window in windows(video)]
    assert firsts == [0, 16, 23]
    assert all(window.shape[2] == 17 for window in windows(video))
    assert len(windows(video[:, :, :33])) == 2


def test_the_last_frame_of_a_short_clip_is_held():
    (window,) = windows(clip()[:, :, :9])
    assert torch.equal(window[:, :, :9], clip()[:, :, :9])
    assert (window[:, :, 9:] == clip()[:, :, 8:9]).all()


@pytest.mark.parametrize("width", [64, 80])
def test_a_wide_frame_is_seen_as_a_square_one_would_show_it(width):
    wide, square = clip(48, width), clip()
    squashed = F.interpolate(wide, (17, 64, 64), mode="trilinear")
    off, squashed_off = ((each - square).abs().mean() for each in (fitted(wide), squashed))
    assert off < 0.5 * squashed_off


def test_a_narrow_frame_is_continued_sideways():
    narrow = clip(64, 48)
    assert torch.equal(fitted(narrow)[..., 8:56], narrow)
    assert (fitted(narrow)[..., :8] == narrow[..., :1]).all()


def test_motion_is_read_at_the_start_and_places_over_all(oracle):
    video = clip(num_frames=33)
    parts = [oracle(window) for window in windows(video)]
    read = oracle.logits(video)
    assert torch.equal(read["motion1"], parts[0]["motion1"])
    both = sum(part["background"].log_softmax(-1) for part in parts) / 2
    torch.testing.assert_close(read["background"], both)
