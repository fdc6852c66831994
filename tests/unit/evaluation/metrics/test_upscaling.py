"""Judges of enlarged videos: the real clip wins everything, bicubic is blurred, jitter jerks."""

import pytest
import torch

from t2v.evaluation.metrics.upscaling import bicubic, edge_pixels, measure
from t2v.evaluation.types import NotRun, blurred_copy
from t2v.nets.features import FrameNet
from t2v.world.grammar import Scene, Thing
from t2v.world.render import render

NET = FrameNet("itself", lambda frames: [frames])


@pytest.fixture(scope="module")
def pair():
    """Two clips at 32 and at 128 pixels."""
    things = (
        Thing(shape="star", colour="yellow", size="big", motion="right"),
        Thing(shape="ball", colour="red", size="medium", motion="bounce"),
    )
    scenes = [Scene(things=(each,), background="night", camera="still") for each in things]
    return tuple(
        torch.stack([render(scene, 5, side, side)[0] for scene in scenes]) for side in (32, 128)
    )


def values(video, real):
    return {name: each.values for name, each in measure(video, real, NET).items()}


def test_the_real_clip_has_the_best_of_every_figure(pair):
    found = values(pair[1], pair[1])
    assert (found["psnr"] == 100).all() and (found["psnr_edges"] == 100).all()
    assert (found["perceptual"] == 0).all()
    for name in ("sharpness", "edge_sharpness", "jerk"):
        assert (found[name] == 1).all()


def test_bicubic_is_blurred_and_more_so_at_edges(pair):
    small, real = pair
    large = bicubic(small, 4)
    assert large.shape == real.shape and large.dtype == torch.uint8
    found = values(large, real)
    assert (found["sharpness"] < 0.7).all() and (found["edge_sharpness"] < 0.8).all()
    assert (found["psnr_edges"] < found["psnr"] - 5).all()
    assert (found["perceptual"] > 0).all()
    softer = values(blurred_copy(large, 9), real)
    for name in ("psnr", "psnr_edges", "sharpness", "edge_sharpness"):
        assert (softer[name] < found[name]).all()


def test_half_the_contrast_is_half_of_the_sharpness(pair):
    real = pair[1]
    half = ((real.float() - 128) / 2 + 128).round().to(torch.uint8)
    found = values(half, real)
    for name in ("sharpness", "edge_sharpness"):
        assert found[name].tolist() == pytest.approx([0.5, 0.5], abs=0.1)


def test_frames_that_blink_have_more_jerk_than_the_real_clip(pair):
    real = pair[1]
    dim = (real * 0.9).to(torch.uint8)
    dim[:, 1::2] += 20
    assert (values(dim, real)["jerk"] > 2).all()


def test_edges_are_the_steepest_two_percent_of_each_clip(pair):
    edges = edge_pixels(pair[1])
    assert edges.flatten(1).float().mean(1).tolist() == pytest.approx([0.02, 0.02], abs=1e-3)


def test_without_a_network_perceptual_distance_says_why_it_is_not_there(pair):
    found = measure(pair[1], pair[1], None)["perceptual"]
    assert isinstance(found, NotRun) and "no network" in found.reason
