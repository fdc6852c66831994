"""The pixels of the world."""

import pytest
import torch

from t2v.world.grammar import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Scene,
    Thing,
    random_scene,
)
from t2v.world.landscape import Backdrop, landscape
from t2v.world.render import COLOUR, render


def _scene(
    shape: str = "ball",
    colour: str = "red",
    motion: str = "still",
    background: str = "grass",
    camera: str = "still",
    size: str = "medium",
) -> Scene:
    thing = Thing(shape=shape, colour=colour, size=size, motion=motion)
    return Scene(things=(thing,), background=background, camera=camera)


def _centres(scene: Scene) -> torch.Tensor:
    """Mean row and column of the thing in each frame, `t 2`."""
    mask = render(scene)[1].float()
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    total = mask.sum((1, 2))
    return torch.stack([(mask * axis).sum((1, 2)) / total for axis in (rows, columns)], dim=1)


def test_a_clip_has_the_asked_size_and_a_scene_always_the_same_pixels():
    scene = _scene()
    video, mask = render(scene, num_frames=5, height=48, width=80)
    assert video.shape == (5, 48, 80, 3)
    assert mask.shape == (5, 48, 80)
    assert torch.equal(video, render(scene, num_frames=5, height=48, width=80)[0])


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("left", 1, -1), ("right", 1, 1), ("rise", 0, -1), ("fall", 0, 1)]
)
def test_a_thing_goes_where_its_motion_says(motion, axis, sign):
    centres = _centres(_scene(motion=motion))
    assert (centres[-1] - centres[0])[axis] * sign > 15
    assert (centres[-1] - centres[0])[1 - axis].abs() < 3


def test_a_bounce_returns_to_the_ground_twice():
    height = _centres(_scene(motion="bounce"))[:, 0]
    assert (height[0] - height[8]).abs() < 1
    assert (height[0] - height[16]).abs() < 1
    assert height[0] - height[4] > 10


def test_growing_and_shrinking_change_the_covered_area():
    for motion, sign in (("grow", 1), ("shrink", -1)):
        area = render(_scene(motion=motion))[1].float().sum((1, 2))
        assert sign * (area[-1] - area[0]) > area.min()


def test_sizes_are_told_apart_by_area():
    small, medium, big = (
        render(_scene(size=size))[1].float().sum() for size in ("small", "medium", "big")
    )
    assert small * 1.5 < medium < big / 1.5


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_filled_with_its_colour(shape):
    for colour in COLOURS:
        video, mask = render(_scene(shape=shape, colour=colour), num_frames=1)
        seen = video[mask == 255].float().mean(0) / 255
        nearest = min(COLOUR, key=lambda name: (seen - torch.tensor(COLOUR[name])).norm().item())
        hue = torch.nn.functional.cosine_similarity(seen, torch.tensor(COLOUR[colour]), dim=0)
        assert nearest == colour or hue > 0.95


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_longer_clip_begins_with_the_shorter_one(motion):
    scene = _scene(shape="cube", motion=motion, background="sea")
    for short, long in zip(render(scene), render(scene, num_frames=33), strict=True):
        assert torch.equal(long[:17], short)


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_camera_is_as_far_in_a_longer_clip(camera):
    scene = _scene(camera=camera, motion="bounce")
    assert torch.equal(render(scene, num_frames=33)[0][:17], render(scene)[0])


def test_under_a_panning_camera_the_thing_stays_in_the_frame_for_ever():
    for camera in ("pan left", "pan right"):
        masks = render(_scene(camera=camera), num_frames=65)[1].float().sum((1, 2))
        assert masks[-1] > 0.8 * masks[0]


@pytest.mark.parametrize(("height", "width"), [(64, 48), (64, 40)])
@pytest.mark.parametrize("motion", MOTIONS)
def test_in_a_narrow_frame_a_thing_stays_inside(height, width, motion):
    for size in ("small", "medium", "big"):
        scene = _scene(shape="cube", motion=motion, size=size)
        _, mask = render(scene, 33, height, width)
        assert not mask[:, :, 0].any() and not mask[:, :, -1].any()


def test_in_a_narrow_frame_three_things_stand_apart_and_inside():
    thing = Thing(shape="cube", colour="red", size="medium", motion="bounce")
    scene = Scene(things=(thing,) * 3, background="grass", camera="still", offset=1.0)
    columns = render(scene, 1, 64, 48)[1][0].float().amax(0) > 128
    assert int((columns[1:] & ~columns[:-1]).sum()) == 3
    assert not columns[0] and not columns[-1]


def test_hills_are_as_high_at_every_size():
    white, black = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)

    def sky(side: int, hills: tuple[float, ...], ground: tuple[float, ...]) -> torch.Tensor:
        backdrop = Backdrop(
            sky=(white, white),
            ground=(ground, ground),
            hills=(hills, 0.15, 1.7),
            disc=(white, 0.0, 0.0, 0.0, 0.0),
            clouds=0.0,
            texture=(0.0, 1.0, 1.0),
        )
        rows = (torch.arange(side) + 0.5) / side
        y, x = torch.meshgrid(rows, rows - 0.5, indexing="ij")
        return landscape(backdrop, x[None], y[None], torch.zeros(1))

    heights = [
        (sky(side, black, black) / sky(side, white, white)).mean((0, 1, 2)).mean()
        for side in (64, 128, 256)
    ]  # of the sky, over all columns
    assert max(heights) - min(heights) < 0.0005


@pytest.mark.parametrize("camera", list(CAMERAS)[1:])
def test_a_moving_camera_changes_the_landscape(camera):
    still, moved = (render(_scene(camera=c))[0].float() for c in ("still", camera))
    assert (moved[-1, :20] - moved[0, :20]).abs().mean() > 1
    assert (still[-1, :20] - still[0, :20]).abs().mean() < 1


def test_every_background_looks_different():
    views = [render(_scene(background=name), num_frames=1)[0].float() for name in BACKGROUNDS]
    for i, one in enumerate(views):
        assert all((one - other).abs().mean() > 10 for other in views[:i])


def test_spinning_shows():
    for shape in ("cube", "pyramid", "star", "heart"):
        video = render(_scene(shape=shape, motion="spin"))[0].float()
        assert (video[2] - video[0]).abs().max() > 20
    assert "spin" in MOTIONS


def test_a_clip_rendered_a_few_frames_at_a_time_is_the_clip_rendered_at_once(monkeypatch):
    scene = random_scene(torch.Generator().manual_seed(5))
    parts = render(scene, 70, 32, 32)
    monkeypatch.setattr("t2v.world.render.AT_ONCE", 70)
    assert all(torch.equal(*pair) for pair in zip(parts, render(scene, 70, 32, 32), strict=True))
