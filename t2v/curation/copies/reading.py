"""The fingerprints of the clips of one file: of its spans, its shots, or a rendered shard."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from safetensors import safe_open

from t2v.config.curation import ALL_STAGES, CurateConfig
from t2v.curation.analyze import FAILED, analyze
from t2v.curation.copies.prints import fingerprint
from t2v.curation.frames.thumbnails import Thumbnailer
from t2v.curation.shot import MOTION_RATE
from t2v.curation.sources import Source
from t2v.errors import UserError
from t2v.footage.frames import iter_shown, probe
from t2v.io.manifest import Clip

# What splits a film into shots, and does nothing else.
SHOTS = CurateConfig(
    input="", output="", skip=tuple(each for each in ALL_STAGES if each != "scenes")
)
RENDERED_RATE = 8.0  # frames a second of a rendered clip that names none


@dataclass(frozen=True)
class Piece:
    """A part of a clip with its fingerprint.

    Args:
        start, end: seconds in the file of the clip.
        pictures: `t h w` uint8.
    """

    start: float
    end: float
    pictures: np.ndarray


def read_pieces(clips: tuple[Clip, ...]) -> list[list[Piece]]:
    """Return the pieces of each of some clips of one file: its span, or the shots of a whole file.

    Raises:
        UserError: the file cannot be read.
    """
    return [_pieces(clip) for clip in clips]


def is_whole(clip: Clip) -> bool:
    """Return whether a clip is a whole file, which may hold several shots."""
    return clip.end is None and clip.start == 0 and not clip.is_rendered


def at_rate(frames: np.ndarray, fps: float) -> np.ndarray:
    """The fingerprint of frames, `t h w c` uint8 RGB at `fps`: those on screen 8 times a second."""
    ticks = np.arange(0, len(frames) / fps - 1e-6, 1 / MOTION_RATE)
    some = frames[np.minimum((ticks * fps + 1e-6).astype(int), len(frames) - 1)]
    grey = np.stack([cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2GRAY) for f in some])
    return fingerprint(grey, Clip(path=""))


def _pieces(clip: Clip) -> list[Piece]:
    if is_whole(clip):
        return _shots(clip)
    if clip.is_rendered:
        with safe_open(clip.path, "np") as shard:
            frames = shard.get_slice("video")[int(clip.extra["index"])]
        fps = clip.fps or RENDERED_RATE
        return [Piece(0.0, len(frames) / fps, at_rate(frames, fps))]
    pictures = _span(clip)
    return [Piece(clip.start, clip.start + len(pictures) / MOTION_RATE, pictures)]


def _shots(clip: Clip) -> list[Piece]:
    source = Source(path=clip.path, name=Path(clip.path).name, size=0, modified=0)
    found = analyze(source, SHOTS)
    kept = [each for each in found.clips if not each.dropped]
    failed = [each.reason for each in found.clips if each.dropped == FAILED]
    if failed and not kept:
        raise UserError(failed[0])
    prints = [found.prints[each.extra["id"]] for each in kept]
    return [Piece(c.start, c.end or 0.0, each) for c, each in zip(kept, prints, strict=True)]


def _span(clip: Clip) -> np.ndarray:
    """The fingerprint of a span of a file."""
    facts = probe(clip.path)
    short = SHOTS.scenes.short_side / min(facts.width, facts.height)
    size = round(facts.height * short), round(facts.width * short)
    thumbnailer = Thumbnailer()
    shown = iter_shown(Path(clip.path), clip.start, clip.end, fps=MOTION_RATE)
    grey = [thumbnailer.grey(picture, size) for _, picture in shown]
    if not grey:
        raise UserError(f"nothing is shown from {clip.start} to {clip.end} s")
    whole = clip.extra | {"shown": [facts.width, facts.height]}
    return fingerprint(np.stack(grey), replace(clip, extra=whole))
