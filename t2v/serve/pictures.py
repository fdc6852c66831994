"""Small pictures of finished videos, drawn in a process of their own that can be killed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Literal

from t2v.errors import UserError
from t2v.io.files import complete
from t2v.io.workers import Failure, work
from t2v.serve.errors import Refused

logger = logging.getLogger(__name__)

SECONDS, MEMORY_GB = 30.0, 2.0  # that drawing one may take
WIDTH = 480  # pixels of a thumbnail, at most
Variant = Literal["thumbnail", "spritesheet"]
VARIANTS: dict[Variant, tuple[str, str]] = {
    "thumbnail": ("thumbnail.webp", "image/webp"),
    "spritesheet": ("spritesheet.jpg", "image/jpeg"),
}
_one = threading.Lock()  # drawing takes a core: one at a time


def picture_of(video: Path, folder: Path, variant: Variant) -> Path:
    """The thumbnail or contact sheet of a finished video, made when it is first asked for.

    Args:
        folder: where it is kept.

    Raises:
        Refused: the video cannot be read.
    """
    path = folder / VARIANTS[variant][0]
    if not path.is_file():
        draw([(video, folder)], variant)
    if not path.is_file():
        raise Refused(500, "The video cannot be read any more.", "video_damaged")
    return path


def draw(
    videos: Sequence[tuple[Path, Path]],
    variant: Variant,
    is_ending: Callable[[], bool] = lambda: False,
) -> None:
    """Make the pictures of videos that have none, all in one process, which takes a second itself.

    What cannot be read gets none.

    Args:
        videos: each with the folder where its picture is kept.
        is_ending: true when the rest is left.
    """
    name = VARIANTS[variant][0]
    with _one:
        wanted = [(file, folder / name) for file, folder in videos]
        wanted = [each for each in wanted if not each[1].is_file()]  # another request made it
        if not wanted:
            return
        items = takewhile(lambda _: not is_ending(), wanted)
        for number, result in work(
            _write_small, items, workers=1, seconds=SECONDS, memory_gb=MEMORY_GB
        ):
            if isinstance(result, Failure):
                logger.warning("%s: %s", wanted[number][0].name, result.reason)


def _write_small(pair: tuple[Path, Path]) -> None:
    import numpy as np
    from PIL import Image

    from t2v.io.video import contact_sheet, shape_of, shown, video_frames

    video, path = pair
    is_sheet = path.name == VARIANTS["spritesheet"][0]
    try:
        count, _, _ = shape_of(video)
        chosen = shown(count) if is_sheet else [count // 2]
        first = islice(video_frames(video), chosen[-1] + 1)  # films may be long: none is held whole
        frames = [frame for number, frame in enumerate(first) if number in chosen]
    except UserError as error:  # of one video, and not of all
        raise ValueError(str(error)) from error
    if is_sheet:
        image = contact_sheet([np.stack(frames)])
    else:
        image = Image.fromarray(frames[0])
        image.thumbnail((WIDTH, WIDTH))
    with complete(path) as unfinished:
        image.save(unfinished, format="JPEG" if is_sheet else "WEBP")
