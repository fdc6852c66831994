"""Pictures from clients, and of finished videos: decoded in processes that can be killed."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Literal

from t2v.errors import UserError
from t2v.io.files import complete
from t2v.io.workers import Failure, work
from t2v.serve.errors import Refused

SECONDS, MEMORY_GB = 30.0, 2.0  # that decoding may take
WIDTH = 480  # pixels of a thumbnail, at most
Variant = Literal["thumbnail", "spritesheet"]
VARIANTS: dict[Variant, tuple[str, str]] = {
    "thumbnail": ("thumbnail.webp", "image/webp"),
    "spritesheet": ("spritesheet.jpg", "image/jpeg"),
}
_one = threading.Lock()  # decoding takes a core: one at a time


def keep_picture(data: bytes, path: Path) -> None:
    """Decode the bytes of a file that a client sent, and write them as a PNG of ours.

    Raises:
        Refused: they are no picture.
    """
    raw = path.with_suffix(".upload")
    try:
        raw.write_bytes(data)
        failure = _worked(partial(_write_png, raw), path)
    finally:
        raw.unlink(missing_ok=True)
    if failure is not None:
        path.unlink(missing_ok=True)
        raise Refused(
            400,
            "input_reference is no picture that can be read; send a PNG, JPEG or WebP file.",
            "invalid_image",
            "input_reference",
        )


def picture_of(video: Path, folder: Path, variant: Variant) -> Path:
    """The thumbnail or contact sheet of a finished video, made when it is first asked for.

    Args:
        folder: where it is kept.

    Raises:
        Refused: the video cannot be read.
    """
    path = folder / VARIANTS[variant][0]
    if not path.is_file():
        failure = _worked(partial(_write_small, video, variant), path)
        if failure is not None:
            raise Refused(500, "The video cannot be read any more.", "video_damaged")
    return path


def _worked(function: partial[None], path: Path) -> str | None:
    """Run a function that writes `path` in a process of its own; the reason where it failed."""
    with _one:
        try:
            ((_, result),) = work(function, [path], workers=1, seconds=SECONDS, memory_gb=MEMORY_GB)
        except UserError as error:
            return str(error)
    return result.reason if isinstance(result, Failure) else None


def _write_png(raw: Path, path: Path) -> None:
    from PIL import Image

    from t2v.footage.still import read_picture
    from t2v.io.video import save_image

    save_image(path, Image.fromarray(read_picture(raw)))


def _write_small(video: Path, variant: Variant, path: Path) -> None:
    from PIL import Image

    from t2v.io.video import contact_sheet, read_video

    frames, _ = read_video(video)
    if variant == "spritesheet":
        image = contact_sheet([frames])
    else:
        image = Image.fromarray(frames[len(frames) // 2])
        image.thumbnail((WIDTH, WIDTH))
    with complete(path) as unfinished:
        image.save(unfinished, format="WEBP" if variant == "thumbnail" else "JPEG")
