"""Reading of still images: upright, 8 bits, RGB, on white where they are transparent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from t2v.footage.containers import Unreadable, opened_picture
from t2v.footage.filters import on_matte


def read_picture(path: str | Path) -> np.ndarray:
    """The first image of a file, `h w c` uint8 RGB, turned as its EXIF says.

    Raises:
        Unreadable: it is not an image, or has more than `MAX_PIXELS`.
        UserError: there is no such file.
    """
    with opened_picture(path := Path(path)) as file:
        try:
            image = ImageOps.exif_transpose(_eight_bits(file))
            if image.has_transparency_data:
                return on_matte(np.asarray(image.convert("RGBA")))
            return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as why:
            raise Unreadable(path, "not an image", str(why) or type(why).__name__) from why


def _eight_bits(image: Image.Image) -> Image.Image:
    """Reduce grey of 16 bits to its upper eight; Pillow would make all above 255 white."""
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).astype(np.int64).clip(0, 2**16 - 1) >> 8
    grey = Image.fromarray(levels.astype(np.uint8))
    grey.info["exif"] = image.info.get("exif", b"")
    return grey
