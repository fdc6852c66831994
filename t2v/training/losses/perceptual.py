"""The perceptual distance of clips by a named network, as a loss of the VAE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from t2v.data.cache import weights_digest
from t2v.io.text_files import read_json
from t2v.models.load import loading
from t2v.nets.features import load_frame_net, perceptual_distance
from t2v.world.oracle import WorldOracle, load_oracle


class Perceptual:
    """LPIPS (arXiv 1801.03924, eq. 1) without its learned weights, by a network the user names.

    Args:
        name: an image model of transformers (folder or hub id), which takes frames one by one, or a
            folder of `t2v world oracle`, whose convolutions take whole clips.
        device: where it computes.

    Raises:
        UserError: it cannot be loaded, or gives no maps.
    """

    def __init__(self, name: str, device: str) -> None:
        self._compute: Callable[[Tensor], list[Tensor]]
        self.by_frame = not _is_oracle(name)
        if self.by_frame:
            net = load_frame_net(name, device, differentiable=True)
            self.name, self._compute = net.name, net.compute
        else:
            oracle = load_oracle(name).requires_grad_(False).to(device)
            self.name, self._compute = f"world oracle {weights_digest(oracle)[:8]}", oracle.maps

    def __call__(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Return the distance of each pair, `b`, at least 0; gradients reach `ours` alone.

        Args:
            ours, theirs: `b c t h w`, about [-1, 1].
        """
        with torch.no_grad():
            wanted = self._maps(theirs)
        return perceptual_distance(self._maps(ours), wanted).mean(1)

    def _maps(self, video: Tensor) -> list[Tensor]:
        """The maps of each layer: frame by frame `b t d y x`, or of the clip `b 1 d t (y x)`."""
        if not self.by_frame:
            maps = self._compute(video)
            return [rearrange(each.float(), "b d t y x -> b 1 d t (y x)") for each in maps]
        maps = self._compute(rearrange(video, "b c t h w -> (b t) c h w"))
        shape = {"b": len(video)}
        return [rearrange(each.float(), "(b t) d y x -> b t d y x", **shape) for each in maps]


def _is_oracle(name: str) -> bool:
    config = Path(name, "config.json")
    with loading(f"perceptual={name}"):
        found = read_json(config) if config.is_file() else {}
        return found.get("_class_name") == WorldOracle.__name__
