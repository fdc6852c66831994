"""Decoding by tiles: how many a VAE makes of a video, and what one of them takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

LARGER = 0.25  # of a tile that overlaps its neighbours, where a VAE does not say


@dataclass(frozen=True)
class Tiles:
    """The tiles of a decoded video.

    Args:
        count: tiles of one video.
        shape: latents of one of them, `b c t h w`.
        overlap: pixels of all tiles for each pixel of the video.
        apart: whether all tiles are kept until they are put together: rows first, then the whole.
    """

    count: int
    shape: tuple[int, ...]
    overlap: float
    apart: bool

    def rise(self, one: float, video: float) -> float:
        """Bytes beside the weights, of the bytes that one tile takes and the video has."""
        if not self.apart:
            return 1.5 * video + one  # Wan's features before the tiles are half of the video
        return max(self.overlap * video + one, (self.overlap + 2) * video)


def tiles_of(vae: Any, latents: Sequence[int], scale: int) -> Tiles | None:
    """The tiles of latents `b c t h w`, `scale` pixels a latent; None: no VAE or no need of any."""
    if not hasattr(vae, "enable_tiling"):
        return None
    counts, sides = [], []
    for axis, name in enumerate(("height", "width")):
        cells = latents[3 + axis]
        tile, stride = (max(1, each // scale) for each in _pixels(vae, name))
        counts.append(ceil(cells / stride) if cells > tile else 1)
        sides.append(min(tile, cells))
    if prod(counts) == 1:
        return None
    area = prod(counts) * prod(sides) / prod(latents[3:])
    shape = 1, *latents[1:3], *sides
    return Tiles(prod(counts), shape, max(1.0, area), apart=not hasattr(vae, "decode_pieces"))


def _pixels(vae: Any, name: str) -> tuple[int, int]:
    """The side of a tile, and how far it is to the next one."""
    side = getattr(vae, f"tile_sample_min_{name}", None) or vae.tile_sample_min_size
    stride = getattr(vae, f"tile_sample_stride_{name}", None)
    overlap = getattr(vae, f"tile_overlap_factor_{name}", LARGER)
    return int(side), int(stride or side * (1 - overlap))
