"""The size of a file, and that of the video it is enlarged from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from t2v.queue.store import number
from t2v.serve.checks import words_of, wrong
from t2v.serve.models import Model

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")


def size_of(
    given: Mapping[str, Any], name: str, model: Model, most: int, is_story: bool
) -> dict[str, int]:
    """The settings of a video whose file has a size, `256x192`.

    Args:
        most: pixels of a frame.
        is_story: it is made at its size, and not enlarged.

    Raises:
        Refused: it is no size, is too large, or the model cannot make it.
    """
    value = given[name]
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not width or not height:
        raise wrong(name, f"is {words_of(value)}; give width and height, as {model.size}")
    if width * height > most:
        raise wrong(name, f"is {value}, {width * height:,} pixels, and {most:,} are taken")
    made = {"width": width, "height": height}
    if not is_story:
        made = model.made_at(width, height)
    if made["width"] % model.step or made["height"] % model.step:
        multiple = model.step * made.get("upscale", 1)
        raise wrong(name, f"is {value}; sides of this size are multiples of {multiple}")
    return made


def seconds_shown(
    settings: Mapping[str, Any], story: Mapping[str, Any] | None, model: Model | None
) -> str:
    """The length that settings ask for, in seconds, or `auto`."""
    if story is not None:
        lengths = [number(scene, "seconds") for scene in story.get("scenes", [])]
        return f"{sum(lengths):g}"
    given, frames = number(settings, "duration"), number(settings, "num_frames")
    fps = number(settings, "fps") or (model.fps if model else None)
    if not given and fps and fps > 0:
        given = frames / fps
    given = given or (model.seconds if model else None) or 0
    return f"{given:g}" if given > 0 else "auto"


def size_shown(
    settings: Mapping[str, Any], story: Mapping[str, Any] | None, model: Model | None
) -> str:
    """The size of the file that settings ask for, or `auto`."""
    width, height = settings.get("width"), settings.get("height")
    own = 1 if model is None or story is not None else model.scale
    if width is None and height is None and model is not None:
        width, height = model.width, model.height
    wide, high, given = (_side(each) for each in (width, height, settings.get("upscale")))
    if wide is None or high is None:
        return "auto"
    scale = given or own
    return f"{wide * scale}x{high * scale}"


def _side(value: Any) -> int | None:
    """A number that a job file, which may come from anywhere, gives in earnest."""
    return value if isinstance(value, int) and 0 < value < 10**6 else None
