"""GIFs: endless, at the mean rate they are asked for, with a recipe as their comment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t2v.errors import UserError
from t2v.footage.containers import Unreadable, opened_picture
from t2v.io.text_files import parse_json
from t2v.io.video import MARK, completed

MOST_FPS = 50  # players show a frame of less than 20 ms for 100


def write_gif(
    path: Path,
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    recipe: dict[str, Any] | None = None,
) -> None:
    """Write an endless GIF of `frames`, each `h w c` uint8; its clock has steps of 10 ms.

    Args:
        frames: at least one. Pillow holds them until the last, one byte a pixel.
        recipe: anything JSON can hold, kept as the comment.

    Raises:
        UserError: the place cannot be written.
    """
    pictures = _lasting(frames, float(fps))
    first = next(pictures)
    comment = MARK if recipe is None else json.dumps(recipe)
    about = {"append_images": pictures, "loop": 0, "comment": comment}
    with completed(path) as partial:
        first.save(partial, format="GIF", save_all=True, **about)


def _lasting(frames: Iterable[np.ndarray], fps: float) -> Iterator[Image.Image]:
    """Pictures of frames, each with the milliseconds that it is shown for."""
    end = 0
    for number, frame in enumerate(frames, 1):
        picture, begin = Image.fromarray(frame), end
        end = int(np.rint(number * 100 / fps))
        picture.info["duration"] = 10 * (end - begin)
        yield picture


def read_gif(path: Path, fps: float) -> np.ndarray:
    """The frames of a GIF of `fps` frames a second, `t h w c` uint8.

    Raises:
        UserError: it is not there or damaged.
    """
    return np.stack(list(gif_frames(path, fps)))


def gif_shape(path: Path, fps: float) -> tuple[int, int, int]:
    """The number of frames that decode from a GIF of `fps` frames a second, height and width.

    Raises:
        UserError: it is not there or damaged.
    """
    count, shape = 0, (0, 0)
    for frame in gif_frames(path, fps):
        count, shape = count + 1, frame.shape[:2]
    return count, *shape


def gif_frames(path: Path, fps: float) -> Iterator[np.ndarray]:
    """Yield the frames of a GIF, each `h w c` uint8; Pillow writes equal ones once, to be shown
    for longer.

    Raises:
        UserError: see `read_gif`.
    """
    count, end = 0, 0.0
    with opened_picture(path) as image:
        try:
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                end += image.info.get("duration", 0) / 1000
                until = round(end * fps)
                yield from repeat(np.asarray(image.convert("RGB")), until - count)
                count = until
        except (OSError, EOFError, SyntaxError) as error:
            raise Unreadable(path, "damaged", str(error)) from error
    if not count:
        raise Unreadable(path, "no frames")


def read_comment(path: Path) -> Any:
    """The recipe in a GIF; None where its comment is none.

    Raises:
        UserError: it is not there or no picture, or its recipe is damaged.
    """
    text = _comment(path)
    if not text.startswith(b"{") or b'"prompt"' not in text:
        return None
    return parse_json(text.decode("ascii", errors="replace"), f"{path}: its recipe is damaged")


def rewrite_comment(path: Path, recipe: dict[str, Any]) -> None:
    """Give a GIF of `write_gif` another recipe; its frames stay to the bit.

    Raises:
        UserError: the file cannot be read or its place not be written.
    """
    old, new = _block(_comment(path)), _block(json.dumps(recipe).encode())
    with completed(path) as partial:
        partial.write_bytes(path.read_bytes().replace(old, new, 1))


def _comment(path: Path) -> bytes:
    with opened_picture(path) as image:
        comment = image.info.get("comment", b"")
        return comment if isinstance(comment, bytes) else b""


def _block(comment: bytes) -> bytes:
    """A comment as it stands in a GIF (GIF89a, 24): pieces of up to 255 bytes after their size."""
    pieces = (comment[start : start + 255] for start in range(0, len(comment), 255))
    return b"\x21\xfe" + b"".join(chain.from_iterable((bytes([len(p)]), p) for p in pieces)) + b"\0"


def check_rate(fps: float, output: str) -> None:
    """Raise UserError for more frames a second than players show of a GIF."""
    if fps > MOST_FPS:
        raise UserError(
            f"output={output} fps={fps:g}: players slow a gif of more than {MOST_FPS} frames a "
            f"second down. Give fps={MOST_FPS} or less, or a name that ends in .mp4."
        )
