"""How much moves, who moves it and where to."""

import numpy as np
import pytest

from t2v.config.curation import MotionConfig
from t2v.curation.frames.motion import motion


def measured(frames, shot):
    return motion(shot(frames), MotionConfig())


def test_a_frozen_film_with_grain_is_dropped_as_still(scene, shot):
    film = scene(0, 48, ball=0)
    clip = measured(film, shot)
    assert clip.dropped == "motion"
    assert clip.reason.startswith("still")


def test_a_film_that_freezes_halfway_is_dropped(scene, shot):
    film = scene(1, 72, pan=2)
    film[30:] = film[30]
    clip = measured(film, shot)
    assert clip.dropped == "motion"
    assert clip.scores["frozen"] > 0.5


def test_unrelated_frames_are_chaos(scene, shot):
    film = np.concatenate([scene(number, 1) for number in range(48)])
    clip = measured(film, shot)
    assert clip.dropped == "motion"
    assert clip.reason.startswith("chaotic")


@pytest.mark.parametrize(("pan", "tag"), [(2, "pan-right"), (-2, "pan-left")])
def test_a_pan_is_the_camera_s_motion_and_has_a_direction(scene, shot, pan, tag):
    film = scene(2, 48, pan=abs(pan), ball=2)
    clip = measured(film if pan > 0 else film[:, :, ::-1].copy(), shot)
    assert not clip.dropped
    assert tag in clip.tags
    assert clip.scores["camera_motion"] > 3 * clip.scores["object_motion"]
    # 2 pixels a frame, 24 frames a second, of 144 pixels
    assert clip.scores["camera_motion"] == pytest.approx(33.3, rel=0.25)


def test_a_zoom_is_tagged(scene, shot):
    assert "zoom-in" in measured(scene(3, 48, zoom=0.004, ball=0), shot).tags


def test_a_ball_before_a_still_camera_is_an_object_s_motion(scene, shot):
    clip = measured(scene(4, 48, ball=3), shot)
    assert not clip.dropped
    assert {"camera-still", "object-motion"} <= set(clip.tags)
    assert clip.scores["object_motion"] > clip.scores["camera_motion"]
