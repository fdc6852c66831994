"""A shot as the stages that measure frames see it: one clip and its frames, decoded once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from t2v.io.manifest import Clip

MOTION_RATE = 8.0  # frames per second at which motion and similarity are measured


@dataclass(frozen=True)
class Shot:
    """One clip with the frames that all stages share.

    Args:
        clip: its facts so far.
        grey: the picture on screen every 1 / 8 s, `t h w` uint8, short side `scenes.short_side`.
        stills: about one frame a second, larger, `n h w c` uint8 RGB; at least one.
        details: the middle of each still's frame as it was stored, unscaled, `n h w` uint8 grey.
    """

    clip: Clip
    grey: np.ndarray
    stills: np.ndarray
    details: np.ndarray


def scored(clip: Clip, *tags: str, **scores: float) -> Clip:
    """The clip with more scores, rounded so that a manifest reads the same everywhere, and tags."""
    rounded = {name: round(float(value), 4) for name, value in scores.items()}
    return replace(clip, scores=clip.scores | rounded, tags=(*clip.tags, *tags))
