"""The interface of models that say how well videos fit texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Aligner(Protocol):
    """A video tower and a text tower whose unit vectors are near where video and text fit.

    `name` tells models apart, by their weights and by how frames are prepared for them; figures
    and recipes carry it.
    """

    @property
    def name(self) -> str: ...

    def embed_video(self, video: Tensor) -> Tensor:
        """Return unit vectors of videos `n t h w c` uint8: `n k d`, one a frame or one a video."""
        ...

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors of texts, `m d`."""
        ...
