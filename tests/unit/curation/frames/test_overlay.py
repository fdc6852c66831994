"""Bars are cropped to the pixel, text and marks are found, clean pictures are left alone."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from t2v.config.curation import OverlayConfig
from t2v.curation.frames.overlay import bars, overlay


@pytest.fixture
def film(scene):
    return scene(3, 60, pan=3, size=(180, 320))


def measured(shot, stills, **settings):
    height, width = stills.shape[1:3]
    clip = replace(shot.clip, width=width, height=height)
    return overlay(replace(shot, clip=clip, stills=stills), OverlayConfig(**settings))


def written(stills, text, place, scale=0.9, colour=(255, 255, 255)):
    stills = stills.copy()
    for still in stills:
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(still, text, place, font, scale, (0, 0, 0), 5, cv2.LINE_AA)
        cv2.putText(still, text, place, font, scale, colour, 2, cv2.LINE_AA)
    return stills


@pytest.mark.parametrize("seed", range(6))
def test_a_clean_film_is_left_alone(scene, shot, seed):
    clip = overlay(shot(scene(seed, 40, pan=seed)), OverlayConfig())
    assert (clip.dropped, clip.tags, clip.extra.get("crop")) == ("", (), None)


@pytest.mark.parametrize(("rows", "columns"), [(40, 0), (0, 60), (24, 24)])
def test_bars_are_cropped(film, shot, rows, columns):
    stills = shot(film).stills.copy()
    height, width = stills.shape[1:3]
    stills[:, :rows] = stills[:, height - rows :] = 0
    stills[:, :, :columns] = stills[:, :, width - columns :] = 3
    assert bars(stills) == (columns, rows, width - 2 * columns, height - 2 * rows)
    clip = measured(shot(film), stills)
    left, top, across, down = clip.extra["crop"]
    assert columns <= left <= columns + 2
    assert rows <= top <= rows + 2
    assert width - 2 * columns - 4 <= across <= width - 2 * columns
    assert (clip.width, clip.height, clip.dropped) == (across, down, "")
    assert "letterbox" in clip.tags
    assert "letterbox" not in measured(shot(film), shot(film).stills).tags


@pytest.mark.parametrize("place", [(60, 330), (60, 180)])
def test_burned_in_text_is_cropped_at_the_edge_and_dropped_in_the_middle(film, shot, place):
    stills = written(shot(film).stills, "the quick brown fox jumps", place)
    clip = measured(shot(film), stills)
    assert "text" in clip.tags
    if place[1] > 300:
        assert clip.dropped == ""
        assert clip.extra["crop"][3] < 320
        assert clip.extra["crop"][3] > 240
    else:
        assert clip.dropped == "overlay"
        assert clip.reason.startswith("text at")
    assert measured(shot(film), stills, text="tag").dropped == ""


def test_a_mark_that_stays_in_a_corner_is_a_logo(film, shot):
    stills = shot(film).stills.copy()
    for still in stills:
        cv2.rectangle(still, (560, 20), (610, 50), (255, 255, 255), 3)
        cv2.circle(still, (585, 35), 8, (255, 0, 0), -1)
    assert "logo" in measured(shot(film), stills).tags
    left, top, width, _ = measured(shot(film), stills, logo="crop").extra["crop"]
    assert top >= 50 or left + width <= 560
    assert measured(shot(film), stills, logo="drop").dropped == "overlay"


def test_pictures_that_light_nowhere_have_no_bars():
    assert bars(np.zeros((3, 90, 160, 3), np.uint8)) == (0, 0, 160, 90)


def test_a_title_that_comes_late_is_found(film, shot):
    stills = shot(film).stills.copy()
    stills = np.concatenate([stills, stills])
    stills[-4:] = written(stills[-4:], "the end of the whole film", (60, 330))
    assert "text" in measured(shot(film), stills).tags


@pytest.mark.parametrize("size", [40, 90])
def test_a_large_title_is_text(film, shot, size):
    stills = shot(film).stills.copy()
    for still in stills:
        cv2.putText(still, "THE END", (40, 230), cv2.FONT_HERSHEY_DUPLEX, size / 22, (255,) * 3, 6)
    assert "text" in measured(shot(film), stills).tags


LINES = ("Where have you been all day?", "She said nothing, and closed the door.")
STYLES = {
    "plain": {"fill": "white"},
    "with a black outline": {"fill": "white", "stroke_width": 2, "stroke_fill": "black"},
    "yellow": {"fill": (255, 230, 60), "stroke_width": 1, "stroke_fill": "black"},
    "black on white": {"fill": "black", "stroke_width": 2, "stroke_fill": "white"},
    "in a box": {"fill": "white", "box": (0, 0, 0, 255)},
    "in a translucent box": {"fill": "white", "box": (0, 0, 0, 130)},
    "with a shadow": {"fill": (240, 240, 240), "shadow": (0, 0, 0, 200)},
}


def subtitled(still, style, line, share=0.05, place=0.86):
    """The still with a line of text, `share` of its height large, in the middle at `place`."""
    height, width = still.shape[:2]
    settings = dict(STYLES[style])
    box, shadow = settings.pop("box", None), settings.pop("shadow", None)
    layer = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(layer)
    font = ImageFont.load_default(round(share * height))
    at = (width - draw.textlength(line, font)) / 2, place * height
    if box:
        left, top, right, bottom = draw.textbbox(at, line, font)
        draw.rectangle((left - 6, top - 4, right + 6, bottom + 4), fill=box)
    if shadow:
        draw.text((at[0] + 2, at[1] + 2), line, font=font, fill=shadow)
    draw.text(at, line, font=font, **settings)
    return np.asarray(Image.alpha_composite(Image.fromarray(still).convert("RGBA"), layer))[..., :3]


@pytest.mark.parametrize("style", STYLES)
def test_subtitles_are_found_however_they_look(scene, shot, style):
    stills = shot(scene(4, 36, pan=3, size=(180, 320))).stills
    found = []
    for share, place in ((0.04, 0.86), (0.055, 0.05), (0.055, 0.86), (0.07, 0.86)):
        shown = [
            subtitled(each, style, LINES[number % 2], share, place)
            for number, each in enumerate(stills)
        ]
        found.append("text" in measured(shot(stills), np.stack(shown), text="tag").tags)
    assert sum(found) >= 3, found


def test_a_line_that_is_there_for_a_second_is_found(scene, shot):
    stills = shot(scene(4, 60, pan=3, size=(180, 320))).stills.copy()
    stills[2] = subtitled(stills[2], "with a black outline", LINES[0])
    clip = measured(shot(stills), stills)
    assert "text" in clip.tags
    assert clip.extra["crop"][3] >= 0.8 * stills.shape[1]


def facade(seed, pan):
    """Stills of a house with rows of windows, and a fence before it; the camera pans."""
    draw = np.random.default_rng(seed)
    wall = np.full((360, 900, 3), draw.integers(60, 200, 3), np.uint8)
    high = int(draw.integers(8, 36))
    wide, apart = int(high * draw.uniform(0.4, 1.2)), int(high * draw.uniform(0.3, 1.2))
    light = draw.integers(0, 256, 3) if seed % 2 else np.array([250, 245, 230])
    for top in range(12, 300 - high, 2 * high):
        for left in range(4, 900 - wide, wide + apart):
            if draw.random() < 0.9:
                pane = (light * draw.uniform(0.7, 1)).astype(np.uint8)
                wall[top : top + high, left : left + wide] = pane
    wall[310:345, :: int(draw.integers(6, 14))] = 255
    wall = cv2.add(wall, draw.normal(0, 4, wall.shape).clip(0, 12).astype(np.uint8))
    return np.stack([cv2.GaussianBlur(wall[:, k * pan :][:, :640], (0, 0), 0.6) for k in range(4)])


@pytest.mark.parametrize("seed", range(12))
def test_rows_of_windows_are_no_text(shot, seed):
    stills = facade(seed, pan=17 * (seed % 3))
    assert "text" not in measured(shot(stills), stills, text="tag").tags


@pytest.mark.parametrize("seed", range(4))
def test_text_before_rows_of_windows_is_text(shot, seed):
    stills = facade(seed, pan=17)
    shown = np.stack([subtitled(each, "with a black outline", LINES[0]) for each in stills])
    assert "text" in measured(shot(stills), shown, text="tag").tags


@pytest.mark.parametrize("light", [0.05, 0.12, 0.2])
def test_a_dark_scene_is_not_letterboxed_and_its_bars_are_found(scene, shot, light):
    stills = shot(scene(4, 60, pan=3, size=(180, 320))).stills
    height, width = stills.shape[1:3]
    night = np.linspace(0, 1, height)[:, None, None] ** 2  # the sky is black, the street is lit
    dark = (stills * night * light).astype(np.uint8)
    assert bars(dark) == (0, 0, width, height)
    dark = (stills * light).astype(np.uint8)
    assert bars(dark) == (0, 0, width, height)
    barred = dark.copy()
    barred[:, :40] = barred[:, -40:] = 0
    assert bars(barred) == (0, 40, width, height - 80)


def test_a_logo_is_cropped_unless_told_otherwise(film, shot):
    stills = shot(film).stills.copy()
    for still in stills:
        cv2.rectangle(still, (560, 20), (610, 50), (255, 255, 255), 3)
    clip = measured(shot(film), stills)
    assert OverlayConfig().logo == "crop"
    assert clip.width * clip.height < 640 * 360
    assert (clip.dropped, "logo" in clip.tags) == ("", True)
