"""Small pictures for measuring show what the full ones do."""

import cv2
import numpy as np
import pytest

from t2v.curation.frames.thumbnails import Thumbnailer, downscaled
from t2v.footage.frames import iter_pictures


@pytest.mark.parametrize("name", ["0", "turned", "ten_bit"])
def test_small_pictures_are_those_of_the_whole_ones(awkward, name):
    thumbnailer = Thumbnailer()
    for _, picture in iter_pictures(awkward / f"{name}.mp4"):
        size = picture.shape.height // 2, picture.shape.width // 2
        truth = picture.rgb(size).astype(int)
        assert np.abs(thumbnailer.bgr(picture, size)[..., ::-1] - truth).mean() < 4
        grey = cv2.cvtColor(truth.astype(np.uint8), cv2.COLOR_RGB2GRAY).astype(int)
        assert np.abs(thumbnailer.grey(picture, size) - grey).mean() < 4
        assert thumbnailer.middle(picture, 16).shape == (16, 16)


def test_shrinking_leaves_no_trace_of_what_is_too_fine():
    columns = np.arange(720) % 2 * 255
    stripes = np.repeat(columns[None].astype(np.uint8), 480, axis=0)
    assert np.ptp(downscaled(stripes, (144, 216)).astype(int)) <= 2
    assert downscaled(stripes, (144, 216)).shape == (144, 216)
    assert downscaled(stripes[:9, :9], (20, 30)).shape == (20, 30)
