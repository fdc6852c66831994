"""The pixels of the world."""

import pytest
import torch

from t2v.world.grammar import BACKGROUNDS, CAMERAS, COLOURS, MOTIONS, SHAPES, Scene, Thing
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
