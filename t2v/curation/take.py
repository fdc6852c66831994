"""What a per-take stage may look at: one clip and its frames, decoded once and shared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from t2v.manifest import Clip


@dataclass(frozen=True)
class Take:
    """One clip with the pictures of it that all stages share.

    Args:
        clip: what is known so far.
        frames: every decoded frame, `t h w c` uint8 RGB, short side `scenes.short_side`.
        times: when each frame is shown, seconds in the source, `t`.
        stills: about one frame a second, larger, `n h w c` uint8 RGB; at least one.
        still_times: when each still is shown, seconds in the source, `n`.
    """

    clip: Clip
    frames: np.ndarray
    times: np.ndarray
    stills: np.ndarray
    still_times: np.ndarray
