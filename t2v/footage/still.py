"""Reading of still images: upright, 8 bits, RGB, on white where they are transparent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from t2v.footage.containers import Unreadable, opened_picture
from t2v.footage.picture import shown


def read_picture(path: str | Path) -> np.ndarray:
    """The first image of a file, `h w c` uint8 RGB, turned as its EXIF says.

    Raises:
        Unreadable: it is not an image, is cut off or damaged, or has more than `MAX_PIXELS`.
        UserError: there is no such file.
    """
    with opened_picture(path := Path(path)) as file:
        try:
            return shown(file)
        except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as why:
            detail = str(why) or type(why).__name__
            raise Unreadable(path, "an image that is cut off or damaged", detail) from why
