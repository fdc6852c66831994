"""Scorers that tell how well captions fit a clip, for the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from t2v.errors import UserError
from t2v.nets.clip import ClipModel
from t2v.nets.scorer import is_scorer, load_scorer


class Matcher(Protocol):
    """A scorer of captions; `num_frames` is how many frames it is made for, None: any number."""

    num_frames: int | None

    def match(self, frames: Sequence[np.ndarray], texts: Sequence[str]) -> list[float]:
        """Return the cosine of each text with a clip's frames, `h w c` uint8 RGB."""
        ...


@lru_cache(maxsize=2)
def matcher(name: str, device: str) -> Matcher:
    """Return the scorer that `scorer=` names, loaded once a process.

    Args:
        name: a folder of `t2v scorer`, or a model of transformers for images and texts.
        device: where it computes.

    Raises:
        UserError: it cannot be loaded, or is one of transformers that takes videos only.
    """
    if is_scorer(name):
        return load_scorer(name).to(device)
    model = ClipModel(name, "scorer", device)
    if model.takes_videos:
        raise UserError(
            f"scorer={name}: compares whole videos with texts. Name a model of images, such as "
            "CLIP or SigLIP, or a folder of `t2v scorer`."
        )
    return model
