"""Shapes of clips: within the budget, near the footage's shape, refused with a reason."""

import pytest

from t2v.config.data import ClipsConfig, CurriculumStage
from t2v.data.buckets import Unfit, bucket_lengths, bucket_sizes, fit_length, fit_size
from t2v.errors import UserError

ASPECTS = ClipsConfig().aspects


@pytest.mark.parametrize("multiple", [16, 32])
@pytest.mark.parametrize("resolution", [64, 96, 240, 256, 480, 720])
def test_sizes_are_whole_patches_near_the_budget_and_the_aspect(resolution, multiple):
    sizes = bucket_sizes(resolution, ASPECTS, multiple)
    for height, width in sizes:
        assert height % multiple == width % multiple == 0
        assert 0.75 * resolution**2 <= height * width <= resolution**2
        assert (width, height) in sizes  # upright footage is as welcome as wide
    assert len(set(sizes)) == len(sizes)
    if resolution >= 16 * multiple:
        assert len(sizes) == len(ASPECTS)
        for (height, width), aspect in zip(sizes, ASPECTS, strict=True):
            wanted = int(aspect.split(":")[0]) / int(aspect.split(":")[1])
            assert width / height == pytest.approx(wanted, rel=0.12)


def test_a_resolution_without_sizes_is_refused():
    with pytest.raises(UserError, match=r"clips.resolution=15.*multiple of 16"):
        bucket_sizes(15, ASPECTS)


def test_lengths_are_halves_that_the_vae_takes():
    assert bucket_lengths(ClipsConfig(), 17) == (17, 9, 5)
    assert bucket_lengths(ClipsConfig(), 81) == (81, 41, 21, 9, 5)
    assert bucket_lengths(ClipsConfig(), 1) == ()
    assert bucket_lengths(ClipsConfig(lengths=(9, 33)), 17) == (33, 9)
    stages = (CurriculumStage(num_frames=1), CurriculumStage(from_step=5, num_frames=13))
    assert bucket_lengths(ClipsConfig(stages=stages), 17) == (17, 13, 9, 5)
    with pytest.raises(UserError, match=r"16 frames.*4k\+1.*13 or 17"):
        bucket_lengths(ClipsConfig(lengths=(16,)), 17)


def test_footage_goes_to_the_nearest_shape_and_is_never_blown_up():
    sizes = bucket_sizes(256, ASPECTS)
    assert fit_size(1080, 1920, sizes, 1.0) == sizes[0]
    assert fit_size(1920, 1080, sizes, 1.0) == sizes[0][::-1]
    assert fit_size(200, 200, sizes, 1.3) == (256, 256)
    with pytest.raises(Unfit, match=r"200x200 would be enlarged 1\.28 times for 256x256"):
        fit_size(200, 200, sizes, 1.25)
    assert fit_length(16, (17, 9, 5)) == 9
    with pytest.raises(Unfit, match=r"too short: 4 frames .* 5 are needed"):
        fit_length(4, (17, 9, 5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aspects": ("16x9",)}, "'16x9' should be width:height"),
        ({"aspects": ()}, "name at least one"),
        ({"max_upscale": 0.5}, "max_upscale=0.5: it must be at least 1"),
        ({"image_ratio": 1.5}, "image_ratio=1.5: it must be from 0 to 1"),
        ({"stages": (CurriculumStage(from_step=3),)}, "the first must be 0"),
        ({"stages": (CurriculumStage(), CurriculumStage())}, "each later one more"),
        ({"fps": 0.0}, "fps=0.0: it must be more than 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ClipsConfig(**settings)
