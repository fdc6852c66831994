"""Conversion of decoded frames and images to RGB: upright, square pixels, 8 bits, full range."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

from t2v.errors import UserError

MATTE = 255  # white: what a page shows behind what is transparent, in videos and in images
_FULL = 2  # AVCOL_RANGE_JPEG
_BT601, _BT709 = 5, 1
_AREA, _BICUBIC = 0x20, 4
_EXACT = 0x40000 | 0x2000  # SWS_ACCURATE_RND, SWS_FULL_CHR_H_INT: without, 1 to 2 levels too dark


@dataclass(frozen=True)
class Shape:
    """The geometry of a video: stored pixels are mirrored, then turned, to be shown."""

    stored: tuple[int, int]  # height, width
    aspect: Fraction
    turns: int  # quarter turns counter-clockwise
    is_mirrored: bool  # left becomes right, before turning

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width with square pixels, before turning."""
        return self.stored[0], max(1, round(self.stored[1] * self.aspect))

    @property
    def height(self) -> int:
        return self.upright[self.turns % 2]

    @property
    def width(self) -> int:
        return self.upright[1 - self.turns % 2]

    def oriented(self, pixels: np.ndarray) -> np.ndarray:
        """Stored pixels, `h w ...`, as they are shown."""
        mirrored = pixels[:, ::-1] if self.is_mirrored else pixels
        return np.ascontiguousarray(np.rot90(mirrored, self.turns))


def shape_of(stream: Any, frame: Any) -> Shape:
    """The shape of a video, by its first frame."""
    aspect = sane(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio)
    return Shape((frame.height, frame.width), aspect, *_orientation(frame))


def sane(aspect: Fraction | None) -> Fraction:
    """The width of a pixel by its height; 1 where it is 0 or out of range, that is unknown."""
    is_sane = aspect is not None and Fraction(1, 8) <= aspect <= 8
    return Fraction(aspect) if aspect is not None and is_sane else Fraction(1)


def _orientation(frame: Any) -> tuple[int, bool]:
    """Quarter turns counter-clockwise, and whether the picture is mirrored before them."""
    if not frame.rotation and not len(frame.side_data):
        return 0, False
    matrix = next((each for each in frame.side_data if each.type == Type.DISPLAYMATRIX), None)
    if matrix is None:
        return 0, False
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix))[:5]
    is_mirrored = a * d - b * c < 0
    if is_mirrored:
        a, b = -a, -b
    return round(-math.atan2(b, a) / (math.pi / 2)) % 4, is_mirrored


Converters = dict[Any, Callable[[Any], np.ndarray]]  # by shape, size, crop and exactness


class Picture:
    """A decoded frame that can be converted to RGB of any size, as often as wanted."""

    def __init__(
        self,
        path: Path,
        frame: Any,
        shape: Shape,
        converters: Converters,
        is_resized: bool,
        is_damaged: bool = False,
    ) -> None:
        self.path, self.frame, self.shape, self.converters = path, frame, shape, converters
        self.is_resized = is_resized  # stored at another size than the first frame
        self.is_damaged = is_damaged  # the decoder had to guess some of it

    def rgb(
        self,
        size: tuple[int, int] | None = None,
        crop: tuple[int, int, int, int] | None = None,
        is_exact: bool = True,
    ) -> np.ndarray:
        """`h w c` uint8 RGB; the arguments are those of `iter_frames`.

        Without `is_exact` it takes a quarter of the time and is a level too dark.
        """
        key = self.shape, size, crop, is_exact
        if key not in self.converters:
            self.converters[key] = _converter(self.path, *key)
        return self.converters[key](self.frame)


def _converter(
    path: Path,
    shape: Shape,
    size: tuple[int, int] | None,
    crop: tuple[int, int, int, int] | None,
    is_exact: bool,
) -> Callable[[Any], np.ndarray]:
    """A function from decoded frames of one shape to RGB arrays of one size."""
    left, top, width, height = crop or (0, 0, shape.width, shape.height)
    if min(left, top) < 0 or left + width > shape.width or top + height > shape.height:
        raise UserError(f"{path}: crop={crop} is not inside {shape.width}x{shape.height}.")
    rows, columns = size or (height, width)
    zoom = max(rows / height, columns / width)  # cover the size, then cut the rest off
    full = [max(1, math.ceil(side * zoom - 1e-9)) for side in (shape.height, shape.width)]
    first_row = round(top * zoom + (height * zoom - rows) / 2)
    first_column = round(left * zoom + (width * zoom - columns) / 2)
    window = np.s_[first_row : first_row + rows, first_column : first_column + columns]
    scaled = full if shape.turns % 2 == 0 else full[::-1]
    how = (_AREA if zoom < 1 else _BICUBIC) | (_EXACT if is_exact else 0)
    reformatter = VideoReformatter()

    def convert(frame: Any) -> np.ndarray:
        picture = reformatter.reformat(
            frame,
            width=scaled[1],
            height=scaled[0],
            format="rgb24",
            dst_color_range=2,
            interpolation=how,
            threads=1,  # the default starts one a core, in every worker
            **colours(frame),
        )
        return np.ascontiguousarray(shape.oriented(picture.to_ndarray())[window])

    return convert


def shown(image: Image.Image) -> np.ndarray:
    """A picture of Pillow as it is looked at, `h w c` uint8 RGB: as `read_picture` reads it."""
    image = ImageOps.exif_transpose(_eight_bits(image))
    if image.has_transparency_data:
        return on_matte(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Reduce grey of 16 bits to its upper eight; Pillow would make all above 255 white."""
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).astype(np.int64).clip(0, 2**16 - 1) >> 8
    grey = Image.fromarray(levels.astype(np.uint8))
    grey.info["exif"] = image.info.get("exif", b"")
    return grey


def on_matte(rgba: np.ndarray) -> np.ndarray:
    """Blend `h w 4` uint8, RGB and opacity, with `MATTE`: `h w 3`."""
    opacity = rgba[..., 3:].astype(np.uint16)
    mixed = (rgba[..., :3] * opacity + MATTE * (255 - opacity) + 127) // 255
    return mixed.astype(np.uint8)


def colours(frame: Any) -> dict[str, int]:
    """The matrix and range of a frame's colours, as arguments of a reformatter."""
    matrix = int(frame.colorspace)
    if matrix not in (_BT709, _BT601, 6, 7, 9):  # untagged: what players assume by size
        matrix = _BT709 if min(frame.height, frame.width) >= 720 else _BT601
    return {"src_colorspace": matrix, "src_color_range": 2 if is_full(frame) else 1}


def is_full(frame: Any) -> bool:
    """Return whether the levels of a decoded frame fill 0 to 255 rather than 16 to 235."""
    name = frame.format.name
    return int(frame.color_range) == _FULL or name.startswith(
        ("yuvj", "rgb", "bgr", "gbr", "pal", "argb", "abgr")
    )
