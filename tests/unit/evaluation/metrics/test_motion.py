"""Motion beside clips whose speed is known, and what marks it off the scale."""

import math

import pytest
import torch
from torch.nn import functional as F

from t2v.evaluation.metrics import dynamics
from t2v.evaluation.types import Videos, still_copy


@pytest.fixture(scope="module")
def picture():
    """Fine and coarse texture, `1 3 192 256`; what it does not show is its mirror image."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for size in (3, 9, 25):
        noise = torch.rand(1, 3, 192, 256, generator=generator)
        soft = F.avg_pool2d(noise, size, 1, size // 2, count_include_pad=False)
        layers.append((soft - soft.mean()) / soft.std())
    return (128 + 25 * sum(layers)).clamp(0, 255)


def panned(picture, speed, fps, angle=0.5, frames=13, height=64, width=64):
    """Windows of a picture that move by `speed` % of their shorter side a second."""
    scale = 64 / min(height, width)
    path = torch.arange(frames) / fps * speed * 0.64
    y = 90 + path[:, None] * math.sin(angle) + (torch.arange(height) - height / 2) * scale
    x = 120 + path[:, None] * math.cos(angle) + (torch.arange(width) - width / 2) * scale
    x, y = x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)
    at = torch.stack(((2 * x + 1) / 256 - 1, (2 * y + 1) / 192 - 1), dim=-1)
    shown = F.grid_sample(
        picture.expand(frames, -1, -1, -1), at, "bicubic", "reflection", align_corners=False
    )
    return shown.clamp(0, 255).round().byte().movedim(1, -1)[None]


def found(video, fps):
    return dynamics.measure(Videos(video, ("a",) * len(video), fps), None)


def read(video, fps):
    return found(video, fps)["motion"].values.item()


def noise(shape, amount):
    return amount * torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("speed", "fps"),
    [
        (5, 60),
        (5, 8),
        (10, 30),
        (25, 24),
        (62, 8),
        (75, 8),
        (112, 8),
        (150, 8),
        (150, 12),
        (200, 6),
    ],
)
def test_motion_is_right_from_slow_to_fast(picture, speed, fps):
    assert read(panned(picture, speed, fps), fps) == pytest.approx(speed, rel=0.1)


@pytest.mark.parametrize(("height", "width"), [(48, 80), (96, 64), (128, 192)])
def test_motion_is_right_at_any_size(picture, height, width):
    video = panned(picture, 40, 12, 2.5, height=height, width=width)
    assert read(video, 12) == pytest.approx(40, rel=0.1)


def test_whole_pixels_at_uneven_steps_add_up(picture):
    frames = panned(picture, 100 / 64 * 8, 8, 0)  # a pixel a frame
    assert read(frames[:, torch.arange(25) // 2], 16) == pytest.approx(100 / 64 * 8, rel=0.1)


def test_a_still_does_not_move_and_neither_do_noise_and_flashes(picture):
    still = still_copy(panned(picture, 0, 8))
    assert read(still, 8) == 0
    assert read((still + noise(still.shape, 4)).clamp(0, 255).byte(), 8) < 0.3
    flashing = still.clone()
    flashing[:, ::2] = (0.8 * still[:, ::2].float()).byte()
    assert read(flashing, 8) < 0.3


def test_what_cannot_be_followed_is_off_the_scale(picture):
    plain = torch.full((1, 9, 64, 64, 3), 120, dtype=torch.uint8)
    for t in range(9):
        plain[:, t, 28:36, 4 + 5 * t : 12 + 5 * t] = 220  # alone before nothing
    unlike = torch.cat([panned(picture.roll(37 * i, 3), 0, 6, frames=1) for i in range(9)], dim=1)
    snow = noise((1, 9, 64, 64, 3), 60).add(128).clamp(0, 255).byte()
    videos = torch.cat([panned(picture, 20, 6, frames=9), panned(picture, 400, 6, frames=9)])
    videos = torch.cat((videos, unlike, snow, plain))
    for name in ("motion", "warp_error"):
        column = found(videos, 6)[name]
        assert column.off_scale.tolist() == [False, True, True, True, True]
        assert column.values.isnan().tolist() == column.off_scale.tolist()


def test_warp_error_is_small_in_a_pan_and_rises_with_flicker_and_noise(picture):
    pan, still = panned(picture, 60, 12), panned(picture, 0, 12)
    unwarped = 1000 * (pan[:, 1:].float() - pan[:, :-1].float()).div(255).square().mean().item()
    flicker, grain = pan.clone(), (pan + noise(pan.shape, 6)).clamp(0, 255).byte()
    flicker[:, ::2] = (0.9 * pan[:, ::2].float()).byte()
    error = {
        name: found(video, 12)["warp_error"].values.item()
        for name, video in {"pan": pan, "still": still, "flicker": flicker, "grain": grain}.items()
    }
    assert error["still"] == 0 < error["pan"] < 0.05 * unwarped
    assert error["flicker"] > 3 * error["pan"] and error["grain"] > 1.5 * error["pan"]
