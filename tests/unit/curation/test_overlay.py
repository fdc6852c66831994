"""Bars are cropped to the pixel, text and marks are found, clean pictures are left alone."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from t2v.config.curation import OverlayConfig
from t2v.curation.overlay import bars, overlay


@pytest.fixture
def film(scene):
    return scene(3, 60, pan=3, size=(180, 320))


def judged(take, stills, **settings):
    height, width = stills.shape[1:3]
    clip = replace(take.clip, width=width, height=height)
    return overlay(replace(take, clip=clip, stills=stills), OverlayConfig(**settings))


def written(stills, text, place, scale=0.9, colour=(255, 255, 255)):
    stills = stills.copy()
    for still in stills:
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(still, text, place, font, scale, (0, 0, 0), 5, cv2.LINE_AA)
        cv2.putText(still, text, place, font, scale, colour, 2, cv2.LINE_AA)
    return stills


@pytest.mark.parametrize("seed", range(6))
def test_a_clean_film_is_left_alone(scene, take, seed):
    clip = overlay(take(scene(seed, 40, pan=seed)), OverlayConfig())
    assert (clip.dropped, clip.tags, clip.extra.get("crop")) == ("", (), None)


@pytest.mark.parametrize(("rows", "columns"), [(40, 0), (0, 60), (24, 24)])
def test_bars_are_cropped(film, take, rows, columns):
    stills = take(film).stills.copy()
    height, width = stills.shape[1:3]
    stills[:, :rows] = stills[:, height - rows :] = 0
    stills[:, :, :columns] = stills[:, :, width - columns :] = 3
    assert bars(stills) == (columns, rows, width - 2 * columns, height - 2 * rows)
    clip = judged(take(film), stills)
    left, top, across, down = clip.extra["crop"]
    assert columns <= left <= columns + 2
    assert rows <= top <= rows + 2
    assert width - 2 * columns - 4 <= across <= width - 2 * columns
    assert (clip.width, clip.height, clip.dropped) == (across, down, "")
    assert "letterbox" in clip.tags
    assert "letterbox" not in judged(take(film), take(film).stills).tags


@pytest.mark.parametrize("place", [(60, 330), (60, 180)])
def test_burned_in_text_is_cropped_at_the_edge_and_dropped_in_the_middle(film, take, place):
    stills = written(take(film).stills, "the quick brown fox jumps", place)
    clip = judged(take(film), stills)
    assert "text" in clip.tags
    if place[1] > 300:
        assert clip.dropped == ""
        assert clip.extra["crop"][3] < 320
        assert clip.extra["crop"][3] > 240
    else:
        assert clip.dropped == "overlay"
        assert clip.reason.startswith("text at")
    assert judged(take(film), stills, text="tag").dropped == ""


def test_a_mark_that_stays_in_a_corner_is_a_logo(film, take):
    stills = take(film).stills.copy()
    for still in stills:
        cv2.rectangle(still, (560, 20), (610, 50), (255, 255, 255), 3)
        cv2.circle(still, (585, 35), 8, (255, 0, 0), -1)
    assert "logo" in judged(take(film), stills).tags
    left, top, width, _ = judged(take(film), stills, logo="crop").extra["crop"]
    assert top >= 50 or left + width <= 560
    assert judged(take(film), stills, logo="drop").dropped == "overlay"


def test_pictures_that_light_nowhere_have_no_bars():
    assert bars(np.zeros((3, 90, 160, 3), np.uint8)) == (0, 0, 160, 90)


def test_a_title_that_comes_late_is_found(film, take):
    stills = take(film).stills.copy()
    stills = np.concatenate([stills, stills])
    stills[-4:] = written(stills[-4:], "the end of the whole film", (60, 330))
    assert "text" in judged(take(film), stills).tags


@pytest.mark.parametrize("size", [40, 90])
def test_a_large_title_is_text(film, take, size):
    stills = take(film).stills.copy()
    for still in stills:
        cv2.putText(still, "THE END", (40, 230), cv2.FONT_HERSHEY_DUPLEX, size / 22, (255,) * 3, 6)
    assert "text" in judged(take(film), stills).tags
