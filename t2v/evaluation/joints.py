"""The places in stories at which their films are judged."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Joints:
    """The frames of stories of one shape at which something begins.

    Args:
        spans: of each scene, its first frame and the one after its last.
        edges: the first frames of windows that begin inside a scene.
        latents: the first frames of latent frames inside windows; none: the model has no latents.
        through_vae: the real stories through the model's VAE, `n t h w c` uint8; None: it has none.
    """

    spans: tuple[tuple[int, int], ...]
    edges: tuple[int, ...]
    latents: tuple[int, ...] = ()
    through_vae: Tensor | None = None

    @property
    def cuts(self) -> tuple[int, ...]:
        """The first frames of all scenes but the first."""
        return tuple(start for start, _ in self.spans[1:])
