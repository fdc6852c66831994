"""Frames, shape and recipe of what `t2v sample` wrote: a video, or a picture of one frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t2v.errors import UserError
from t2v.io import video
from t2v.io.text_files import parse_json

PICTURE = ".png"


def write_picture(path: Path, frames: np.ndarray, recipe: dict[str, Any]) -> None:
    """Write one frame, `1 h w c` uint8, as a PNG that carries its recipe.

    Raises:
        UserError: the place cannot be written.
    """
    (frame,) = frames
    video.save_image(path, Image.fromarray(frame), recipe)


def read_frames(path: Path) -> np.ndarray:
    """The frames of a result, `t h w c` uint8.

    Raises:
        UserError: it is not there or damaged.
    """
    if path.suffix != PICTURE:
        return video.read_video(path)[0]
    from t2v.footage.still import read_picture  # videos need none

    return read_picture(path)[None]


def read_recipe(path: Path) -> Any:
    """The recipe that a result carries.

    Raises:
        UserError: the file cannot be read or carries no recipe.
    """
    if path.suffix != PICTURE:
        return video.read_recipe(path)
    text = video.read_about(path).get(video.RECIPE_KEYS[0])
    if text is None:
        raise UserError(
            f"{path}: carries no recipe. Only files written by `t2v sample` do; sharing sites and "
            "editors remove it."
        )
    return parse_json(text, f"{path}: its recipe is damaged")


def rewrite_recipe(path: Path, recipe: dict[str, Any]) -> None:
    """Give a result another recipe; its frames stay as they are.

    Raises:
        UserError: the file cannot be read or its place not be written.
    """
    if path.suffix == PICTURE:
        write_picture(path, read_frames(path), recipe)
    else:
        video.rewrite_recipe(path, recipe)


def shape_of(path: Path) -> tuple[int, int, int]:
    """The number of frames that decode from a result, their height and width.

    Raises:
        UserError: it is broken, or has no frames.
    """
    if path.suffix != PICTURE:
        return video.shape_of(path)
    count, height, width = read_frames(path).shape[:3]
    return count, height, width
