"""Damage of what was made, of what was kept and of the seam between is told apart."""

from dataclasses import replace

import pytest
import torch

from t2v.evaluation.metrics.given import border_jumps, measure
from t2v.evaluation.parts import given_of
from t2v.evaluation.suites import load_suite
from t2v.evaluation.types import NotRun, Videos, blurred_copy

SIZE = (9, 32, 32)


def videos_of(name):
    suite = load_suite(name, 6, 3)
    real, mask = suite.real(*SIZE)
    given = given_of(suite, real, mask, (8, 4))
    given = replace(given, through_vae=blurred_copy(given.clip, 3))
    return Videos(real, suite.prompts, 8, real, mask, truths=suite.truths(), given=given)


def values(videos, video):
    return {name: each.values for name, each in measure(videos.showing(video), None).items()}


def darker(video, where):
    """The same video, 20 levels darker at some pixels."""
    return torch.where(where[..., None], video.int() - 20, video.int()).clamp(0).to(torch.uint8)


@pytest.mark.parametrize("name", ["first", "continue", "interpolate", "region"])
def test_what_is_made_and_what_is_kept_are_measured_apart(name):
    videos = videos_of(name)
    given, real = videos.given, videos.real
    found = values(videos, real)
    assert (found["psnr"] == 100).all() and (found["kept"] > 40).all()
    made, kept = (values(videos, darker(real, where)) for where in (given.made, given.kept))
    assert (made["psnr"] < 40).all() and (made["kept"] == found["kept"]).all()
    assert (kept["psnr"] == 100).all() and (kept["kept"] < found["kept"]).all()
    things = values(videos, darker(real, given.made & (videos.mask > 127)))
    assert (things["psnr_things"] < things["psnr"]).all()


def test_moving_clips_are_also_measured_apart():
    videos = videos_of("first")
    moving = torch.tensor([True, False, True, False, False, True])
    videos = replace(videos, given=replace(videos.given, moving=moving))
    found = values(videos, darker(videos.real, videos.given.made))
    assert (found["psnr_moving"].isnan() == ~moving).all()
    assert (found["psnr_moving"][moving] == found["psnr"][moving]).all()


def test_what_the_vae_costs_is_no_fault_of_the_model():
    videos = videos_of("first")
    found = values(videos, videos.given.through_vae)
    assert (found["kept_over_vae"] == 0).all()
    worse = values(videos, blurred_copy(videos.given.clip, 7))
    assert (worse["kept_over_vae"] < -1).all()
    assert values(videos, videos.given.clip)["kept_over_vae"].isnan().all()  # a copy
    alone = replace(videos, given=replace(videos.given, through_vae=None))
    assert isinstance(measure(alone, None)["kept_over_vae"], NotRun)


def test_a_jump_where_given_frames_end_is_a_seam():
    videos = videos_of("continue")
    still = videos.real[:, :1] + torch.arange(9).view(1, 9, 1, 1, 1)  # 1 level a frame
    still = still.clamp(max=255).to(torch.uint8)
    still[:, 5:] = darker(still[:, 5:], torch.ones(6, 4, 32, 32, dtype=torch.bool))
    assert (values(videos, still)["seam"] > 8).all()
    held = videos.given.copies()
    assert all((values(videos, each)["seam"] < 1).all() for each in held.values())


def test_a_region_of_another_brightness_has_a_border_and_noise_has_none():
    real = torch.full((1, 3, 32, 32, 3), 100, dtype=torch.uint8)
    made = torch.zeros(1, 3, 32, 32, dtype=torch.bool)
    made[..., 8:24, 8:24] = True
    noise = torch.randint(-9, 10, (1, 3, 32, 32, 1), generator=torch.Generator().manual_seed(0))
    noisy = (real + noise).to(torch.uint8)
    assert border_jumps(noisy, real, made).item() == pytest.approx(1, abs=0.15)
    assert border_jumps(darker(noisy, made), real, made).item() > 2
    assert border_jumps(real, real, made).item() == 1
    assert border_jumps(noisy, real, torch.ones_like(made)).isnan().all()


def test_an_edit_has_no_seam():
    videos = videos_of("edit")
    assert "seam" not in measure(videos, None)
    assert (values(videos, videos.real)["kept"] == 100).all()
