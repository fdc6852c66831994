"""Pictures and clips handed in keep their shapes, their place and their speed."""

import numpy as np
import pytest
from PIL import Image

from t2v.errors import UserError
from t2v.footage.containers import Unreadable
from t2v.footage.fitting import as_mask, fitted, is_picture, read_film, size_shown
from t2v.io.video import write_video


def read_clip(path, **how):
    """The frames of a clip of which none is damaged."""
    frames, damaged = read_film(path, **how)
    assert not damaged
    return frames


def disc(height: int, width: int, radius: float) -> np.ndarray:
    """A white disc in the middle of a grey picture."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = (y - height / 2) ** 2 + (x - width / 2) ** 2 < radius**2
    return np.where(inside, 255, 90).astype(np.uint8)[..., None].repeat(3, -1)


def extent(picture: np.ndarray) -> tuple[int, int]:
    """Height and width of what is nearly white."""
    white = picture[..., 0] > 170
    return int(white.any(1).sum()), int(white.any(0).sum())


@pytest.mark.parametrize("source", [(120, 300), (300, 120), (97, 131), (40, 40)])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (96, 32)])
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_disc_stays_round_and_in_the_middle(source, size, fit):
    radius = 0.2 * min(source)
    got = fitted(disc(*source, radius), size, fit)
    assert got.shape == (*size, 3)
    ratios = [wanted / own for wanted, own in zip(size, source, strict=True)]
    diameter = 2 * radius * (max(ratios) if fit == "crop" else min(ratios))
    for side, own in zip(extent(got), size, strict=True):
        assert abs(side - min(diameter, own)) <= 1.5
    middle = np.argwhere(got[..., 0] > 170).mean(0) + 0.5
    assert np.abs(middle - np.array(size) / 2).max() <= 0.6


def test_cropping_cuts_as_much_on_both_sides_and_padding_shows_all_on_black():
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, :10], stripes[:, 10:20], stripes[:, 20:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    assert (fitted(stripes, (10, 10), "crop") == (0, 255, 0)).all()
    padded = fitted(stripes, (30, 30), "pad")
    assert (padded[10:20] == stripes).all()
    assert not padded[:10].any() and not padded[20:].any()


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_line_of_pixels_still_fills_its_place(fit):
    line = np.full((1, 4000, 3), 200, np.uint8)
    assert fitted(line, (8, 8), fit).max() == 200


def test_a_clip_of_variable_rate_comes_out_at_its_speed(awkward):
    path = awkward / "variable.mp4"  # shown at 0 1 2 3 6 7 8 9 12 eighths, each brighter
    whole = read_clip(path, fps=8, size=(48, 80), fit="crop", most=99)
    assert len(whole) == 13
    is_held = np.diff(whole.mean((1, 2, 3))) < 2
    assert np.flatnonzero(is_held).tolist() == [3, 4, 9, 10]


def test_a_span_and_a_rate_choose_the_frames(awkward):
    path = awkward / "0.mp4"  # 12 frames at 8 a second
    whole = read_clip(path, fps=8, size=(48, 80), fit="crop", most=99)
    every_second = read_clip(path, fps=4, size=(48, 80), fit="crop", most=99)
    assert (every_second == whole[::2]).all()
    part = read_clip(path, fps=8, size=(48, 80), fit="crop", most=99, start=0.5, end=1.0)
    assert (part == whole[4:8]).all()
    assert (read_clip(path, fps=8, size=(48, 80), fit="crop", most=5) == whole[:5]).all()
    with pytest.raises(UserError, match=r"lasts 1\.50 s .*Begin earlier"):
        read_clip(path, fps=8, size=(48, 80), fit="crop", most=5, start=2.0)


def test_every_frame_is_read_where_no_rate_is_asked(awkward):
    assert len(read_clip(awkward / "slow.mp4", fps=None, size=(8, 8), fit="pad", most=99)) == 12


def test_a_turned_clip_is_upright(awkward):
    assert size_shown(awkward / "turned.mp4") == (48, 80)
    frames = read_clip(awkward / "turned.mp4", fps=8, size=(48, 80), fit="crop", most=2)
    across = frames[0].astype(float).mean((0, 2))
    down = frames[0].astype(float).mean((1, 2))
    assert np.ptp(down) > 5 * np.ptp(across)  # it brightens across before it is turned


def test_pictures_are_told_from_clips_by_what_they_hold(tmp_path):
    frames = [Image.fromarray(disc(16, 16, 4)), Image.fromarray(disc(16, 16, 7))]
    frames[0].save(tmp_path / "still.gif")
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    frames[0].save(tmp_path / "named.mp4", format="PNG")
    write_video(tmp_path / "clip.png.mp4", np.stack([disc(16, 16, 4)] * 3), 8)
    names = ("still.gif", "moving.gif", "named.mp4", "clip.png.mp4")
    assert [is_picture(tmp_path / name) for name in names] == [True, False, True, False]
    counts = [
        len(read_clip(tmp_path / name, fps=10, size=(16, 16), fit="crop", most=9)) for name in names
    ]
    assert counts == [1, 2, 1, 4]  # three frames of an eighth of a second last 3.75 tenths


@pytest.mark.parametrize("name", ["random.mp4", "empty.mp4", "text.mp4", "sound.mp4"])
def test_what_shows_nothing_is_refused(name, awkward):
    with pytest.raises(Unreadable):
        read_clip(awkward / name, fps=8, size=(16, 16), fit="crop", most=9)


def test_a_mask_is_white_where_it_is_nearer_to_white():
    ramp = np.arange(256, dtype=np.uint8)[None, None, :, None].repeat(3, -1)
    assert (as_mask(ramp)[0, 0] == np.where(np.arange(256) > 127, 255, 0)).all()
