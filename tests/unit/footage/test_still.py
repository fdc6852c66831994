"""Pictures of every kind come out upright, in eight bits and on white."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2v.data.decode import Transform, read_clip
from t2v.io.manifest import Clip

HEIGHT, WIDTH = 48, 64
PICTURE = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
PICTURE[:24, :32] = (200, 40, 40)
PICTURE[:24, 32:] = (40, 200, 40)
OPACITY = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
OPACITY[:, 32:] = 0
OPACITY[24:, :32] = 128
ON_WHITE = (PICTURE * (OPACITY / 255) + 255 * (1 - OPACITY / 255)).round()
# EXIF's number, and how what is stored is to be shown
VIEWS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: np.rot90(x, 2),
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x.transpose(1, 0, 2), 2),
    8: lambda x: np.rot90(x, 1),
}


def read(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    how = Transform(8.0, (size,), (5, 1), "dense", 1.25, 1.5)
    (frame,) = read_clip(Clip(path=str(path)), how)
    return frame.astype(float)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_of_grey_become_the_upper_eight(mode, tmp_path):
    ramp = np.linspace(0, 65535, WIDTH).astype(np.uint16)[None].repeat(HEIGHT, 0)
    image = Image.fromarray(ramp)
    if mode == "I;16B":
        image = Image.frombytes(mode, image.size, ramp.byteswap().tobytes())
    image.save(tmp_path / "ramp.png")
    got = read(tmp_path / "ramp.png")
    assert np.abs(got - (ramp >> 8)[..., None]).max() <= 1


@pytest.mark.parametrize("kind", ["RGBA.png", "RGBA.webp", "P.png", "key.png", "apng.png"])
def test_what_is_transparent_lies_on_white(kind, tmp_path):
    mode, suffix = kind.split(".")
    path, wanted = tmp_path / f"a.{suffix}", ON_WHITE
    rgba = Image.fromarray(np.concatenate([PICTURE, OPACITY], 2))
    if mode == "P":
        rgba.quantize(16).save(path)
    elif mode == "key":  # one colour stands for nothing
        Image.fromarray(PICTURE).save(path, transparency=(40, 200, 40))
        wanted = np.where((PICTURE == (40, 200, 40)).all(-1, keepdims=True), 255, PICTURE)
    elif mode == "apng":
        rgba.save(path, save_all=True, append_images=[Image.new("RGBA", rgba.size)])
    else:
        rgba.save(path, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    assert np.abs(read(path) - wanted).max() <= 1


def test_grey_with_opacity_lies_on_white(tmp_path):
    bands = [Image.fromarray(each[..., 0].copy()) for each in (PICTURE, OPACITY)]
    Image.merge("LA", bands).save(tmp_path / "a.png")
    assert np.abs(read(tmp_path / "a.png") - ON_WHITE[..., :1]).max() <= 1


@pytest.mark.parametrize("number", VIEWS)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_says_how_a_picture_is_held(number, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = number
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PICTURE).save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    wanted = VIEWS[number](PICTURE)
    assert np.abs(read(path, wanted.shape[:2]) - wanted).mean() < 3


def test_ink_becomes_light(tmp_path):
    Image.fromarray(PICTURE).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read(tmp_path / "a.jpg") - PICTURE).mean() < 4
