"""What a per-take stage may look at: one clip and its frames, decoded once and shared."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from t2v.manifest import Clip

MOTION_RATE = 8.0  # frames a second at which motion and likeness are measured


@dataclass(frozen=True)
class Take:
    """One clip with the pictures of it that all stages share.

    Args:
        clip: what is known so far.
        frames: every decoded frame, `t h w c` uint8 RGB, short side `scenes.short_side`.
        times: when each frame is shown, seconds in the source, `t`.
        stills: about one frame a second, larger, `n h w c` uint8 RGB; at least one.
        details: the middle of each still's frame as it was stored, unscaled, `n h w c` uint8 RGB.
    """

    clip: Clip
    frames: np.ndarray
    times: np.ndarray
    stills: np.ndarray
    details: np.ndarray

    def grey(self) -> np.ndarray:
        """The frames on screen every 1 / 8 s, `t h w` uint8."""
        wanted = np.arange(self.times[0], self.times[-1] + 1e-6, 1 / MOTION_RATE)
        shown = np.searchsorted(self.times, wanted + 1e-3, side="right") - 1
        return np.stack([cv2.cvtColor(self.frames[at], cv2.COLOR_RGB2GRAY) for at in shown])


def scored(clip: Clip, *tags: str, **scores: float) -> Clip:
    """The clip with more scores, rounded so that a manifest reads the same everywhere, and tags."""
    rounded = {name: round(float(value), 4) for name, value in scores.items()}
    return replace(clip, scores=clip.scores | rounded, tags=(*clip.tags, *tags))
