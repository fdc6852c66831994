"""Small pictures of finished videos."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from t2v.io.files import complete
from t2v.serve.aside import aside
from t2v.serve.errors import Refused

SECONDS = 30.0  # that decoding may take
WIDTH = 480  # pixels of a thumbnail, at most
Variant = Literal["thumbnail", "spritesheet"]
VARIANTS: dict[Variant, tuple[str, str]] = {
    "thumbnail": ("thumbnail.webp", "image/webp"),
    "spritesheet": ("spritesheet.jpg", "image/jpeg"),
}


def picture_of(video: Path, folder: Path, variant: Variant) -> Path:
    """The thumbnail or contact sheet of a finished video, made when it is first asked for.

    Args:
        folder: where it is kept.

    Raises:
        Refused: the video cannot be read.
    """
    path = folder / VARIANTS[variant][0]
    if not path.is_file():
        _, failure = aside(partial(_write_small, video, variant), path, SECONDS)
        if failure is not None:
            raise Refused(500, "The video cannot be read any more.", "video_damaged")
    return path


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
