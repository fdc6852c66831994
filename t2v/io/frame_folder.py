"""Folders of numbered PNGs, the frames of a video, whose first holds the recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t2v.errors import UserError
from t2v.footage.containers import Unreadable
from t2v.footage.still import read_picture
from t2v.io.files import discard
from t2v.io.video import completed, save_image

FRAME = re.compile(r"\d{6,}\.png")


def write_folder(
    path: Path, frames: Iterable[np.ndarray], recipe: dict[str, Any] | None = None
) -> None:
    """Write `frames`, each `h w c` uint8, as `000000.png, 000001.png, ...`.

    The folder is there whole or not at all; one of frames alone is replaced.

    Raises:
        UserError: the place holds something else, or cannot be written.
    """
    check_folder(path)
    with completed(path) as partial:
        partial.mkdir()
        for number, frame in enumerate(frames):
            about = recipe if number == 0 else None
            save_image(partial / f"{number:06}.png", Image.fromarray(frame), about)
        if path.exists():
            discard(path)


def check_folder(path: Path) -> None:
    """Raise UserError where a folder of frames would replace anything else."""
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"output={path}/: is a file. Choose another output.")
    others = sorted(each.name for each in path.iterdir() if not FRAME.fullmatch(each.name))
    if others:
        raise UserError(
            f"output={path}/: the folder holds more than frames ({others[0]}). Choose another one."
        )


def frame_files(path: Path) -> list[Path]:
    """The pictures of a folder, in the order of their numbers.

    Raises:
        UserError: it is no folder, or has none.
    """
    found = [each for each in path.glob("*.png") if FRAME.fullmatch(each.name)]
    if not found:
        raise Unreadable(path, "not a folder of frames", "000000.png and on")
    return sorted(found, key=lambda each: int(each.stem))


def read_folder(path: Path) -> np.ndarray:
    """The frames of a folder, `t h w c` uint8.

    Raises:
        UserError: it has none, one is damaged, or they are of several sizes.
    """
    return np.stack(list(folder_frames(path)))


def folder_frames(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a folder, each `h w c` uint8.

    Raises:
        UserError: see `read_folder`.
    """
    shape = None
    for each in frame_files(path):
        frame = read_picture(each)
        if shape not in (None, frame.shape):
            raise Unreadable(path, "frames of several sizes")
        shape = frame.shape
        yield frame
