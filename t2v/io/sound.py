"""The sound of a video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound track: samples `channel n` in [-1, 1], one channel or two, and how many a second."""

    samples: np.ndarray
    rate: int
