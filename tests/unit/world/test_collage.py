"""Made-up pictures: a function of the seed, moved by the camera, the same at every size."""

import torch

from t2v.world.collage import is_drawn
from t2v.world.grammar import Scene, Thing, random_collage_scene
from t2v.world.render import render


def scene(seed: int, motion: str = "still", camera: str = "still", named: bool = False) -> Scene:
    thing = Thing(shape="star", colour="red", size="medium", motion=motion)
    return Scene(things=(thing,), background="grass", camera=camera, collage=seed, named=named)


def test_a_picture_is_a_function_of_its_seed():
    one, _ = render(scene(3), 5)
    assert torch.equal(one, render(scene(3), 5)[0])
    assert not torch.equal(one, render(scene(4), 5)[0])
    assert {is_drawn(seed) for seed in range(20)} == {True, False}


def test_the_thing_moves_before_a_picture_that_stands_still():
    for seed in range(8):
        video, coverage = render(scene(seed, motion="rise"), 17)
        beside = video[:, :, :8]  # columns that no thing and no shadow reaches
        assert (beside.float() - beside[:1].float()).abs().max() <= 4
        rows = torch.arange(64) + 0.5
        middle = [(c.float().sum(1) * rows).sum() / c.float().sum() for c in coverage[[0, 16]]]
        assert middle[0] - middle[1] > 15


def test_the_camera_moves_the_picture():
    video, _ = render(scene(5, camera="pan left"), 17)
    shifted = (video[16, :20, 20:].float() - video[0, :20, :-20].float()).abs().mean()
    unmoved = (video[16, :20, 20:].float() - video[0, :20, 20:].float()).abs().mean()
    assert shifted < 0.5 * unmoved


def test_a_larger_render_is_the_same_picture():
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        found = random_collage_scene(generator)
        small, large = (render(found, 5, size, size)[0].float() for size in (64, 256))
        reduced = large.unflatten(1, (64, 4)).unflatten(3, (64, 4)).mean((2, 4))
        assert (reduced - small).abs().mean() < 6  # of 255


def test_a_thing_without_a_name_has_the_size_of_its_word():
    for seed in range(12):
        _, coverage = render(scene(seed), 1)
        _, of_star = render(scene(seed, named=True), 1)
        assert 0.3 < coverage.float().sum() / of_star.float().sum() < 3
