"""Pictures and clips that somebody hands in, at the size and rate of a video that is to be made."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from t2v.errors import UserError
from t2v.footage.containers import TOO_LARGE, Unreadable, opened_picture
from t2v.footage.frames import iter_shown, probe
from t2v.footage.still import read_picture

Fit = Literal["crop", "pad"]
LUMA = 0.299, 0.587, 0.114  # BT.601, as Pillow makes grey of colours


def fitted(picture: np.ndarray, size: tuple[int, int], fit: Fit) -> np.ndarray:
    """A picture at another size, never stretched: both sides are scaled alike.

    Args:
        picture: `h w c` or `h w`, uint8.
        size: height and width to give it.
        fit: "crop" covers the size and cuts off what is over, as much on both sides; "pad" shows
            all of the picture, with black around it.
    """
    (height, width), (rows, columns) = picture.shape[:2], size
    image = Image.fromarray(picture)
    if fit == "crop":
        zoom = max(rows / height, columns / width)
        wide, high = columns / zoom, rows / zoom  # of the part that is shown
        left, top = (width - wide) / 2, (height - high) / 2
        box = max(0.0, left), max(0.0, top), min(width, left + wide), min(height, top + high)
        return np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC, box=box))
    top, left, high, wide = shown_part((height, width), size)
    whole = np.zeros((rows, columns, *picture.shape[2:]), np.uint8)
    whole[top : top + high, left : left + wide] = image.resize(
        (wide, high), Image.Resampling.BICUBIC
    )
    return whole


def shown_part(picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of a padded picture inside the size it is fitted to."""
    zoom = min(size[0] / picture[0], size[1] / picture[1])
    high, wide = (max(1, round(side * zoom)) for side in picture)
    return (size[0] - high) // 2, (size[1] - wide) // 2, high, wide


def is_picture(path: Path) -> bool:
    """Return whether a file is a still image; an animated GIF is a clip.

    Raises:
        Unreadable: it is an image that is too large.
    """
    try:
        with opened_picture(path) as image:
            return getattr(image, "n_frames", 1) == 1
    except Unreadable as error:
        if error.fault == TOO_LARGE:
            raise
        return False


def size_shown(path: Path) -> tuple[int, int]:
    """Height and width of a picture or clip as it is shown: upright, with square pixels."""
    if is_picture(path):
        height, width = read_picture(path).shape[:2]
        return height, width
    film = probe(path)
    return film.height, film.width


def read_film(
    path: Path,
    *,
    fps: float | None,
    size: tuple[int, int],
    fit: Fit,
    most: int,
    start: float = 0.0,
    end: float | None = None,
) -> tuple[np.ndarray, int]:
    """At most `most` frames of a clip, `t h w c` uint8, and how many of them are damaged; a still
    image is a clip of one.

    Args:
        fps: frames a second, taken by the timestamps. None: every frame as it is; where frames
            last unequally long, as many in equal steps.
        size, fit: as in `fitted`.
        start, end: seconds of the clip, the end exclusive; None for its own.

    Raises:
        Unreadable: it is neither a picture nor a video, or damaged.
        UserError: there is no such file, or nothing is shown in that span.
    """
    if is_picture(path):
        return fitted(read_picture(path), size, fit)[None], 0
    film = probe(path)
    rate = film.fps if fps is None and film.vfr else fps
    shown = iter_shown(path, start, end, fps=rate) if start < film.duration else iter(())
    frames, damaged = [], 0
    for _, picture in islice(shown, most):
        frames.append(fitted(picture.rgb(), size, fit))
        damaged += picture.is_damaged
    if not frames:
        raise UserError(
            f"{path}: lasts {film.duration:.2f} s and shows nothing from {start:g} s on. Begin "
            "earlier."
        )
    return np.stack(frames), damaged


def as_mask(frames: np.ndarray) -> np.ndarray:
    """Masks `t h w` uint8, 255 where frames `t h w c` are nearer to white and 0 elsewhere."""
    return np.where(frames @ np.array(LUMA) >= 127.5, 255, 0).astype(np.uint8)
