"""Checks of decoded files against the fields and the model of a video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2v.serve.checks import wrong
from t2v.serve.models import Model
from t2v.serve.offered import goes_on
from t2v.serve.uploads import Kept


def check_files(settings: Mapping[str, Any], kept: Mapping[str, Kept], model: Model) -> None:
    """Raise `Refused` where files do not go with the fields or the model of a video.

    Args:
        settings: of the job, with the files.
        kept: the files that the request brought, by their fields.
    """
    for name, file in kept.items():
        if model.takes is not None and file.setting not in model.takes:
            kind = "clip" if file.seconds else "picture"
            raise wrong(name, f"is a {kind}, and {model.name} takes none there")
    clip, mask = kept.get("input_reference"), kept.get("mask")
    if clip is None or not clip.seconds:
        return
    start, end = settings.get("video_start", 0.0), settings.get("video_end")
    length = min(clip.seconds, clip.seconds if end is None else end) - start
    if length <= 0:
        raise wrong("reference_start", f"is {start:g}; the clip lasts {clip.seconds:g} s")
    if mask is not None and (mask.width, mask.height) != (clip.width, clip.height):
        sizes = f"{mask.width}x{mask.height} and the clip {clip.width}x{clip.height}"
        raise wrong("mask", f"is {sizes}; send one of the size of the clip")
    if any(name in settings for name in ("strength", "mask")) or settings.get("fit") == "outpaint":
        return
    if model.takes is not None and not goes_on(model.takes):
        raise wrong("strength", f"is missing; {model.name} edits clips: say how far, such as 0.6")
    wanted, fps = settings.get("duration") or model.seconds, settings.get("fps") or model.fps
    if wanted and fps and round(length * fps) >= round(wanted * fps):
        raise wrong(
            "input_reference",
            f"gives {length:g} s and {wanted:g} s are asked for, so nothing is left to make; ask "
            "for more seconds, give less of it by reference_start and reference_end, or edit it "
            "with strength or mask",
        )
