"""Every network is one graph to a compiler: `torch.compile(fullgraph=True)` finds no break.

The transformer's is in `test_transformer.py`. Tracing takes a second a network, so all but one are
for the night.
"""

from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from t2v.config.models import VAEConfig
from t2v.models.upscaler import VideoUpscaler
from t2v.models.vae import AutoencoderKLT2V
from t2v.models.wan_vae import AutoencoderKLWan
from t2v.nets.discriminator import PatchDiscriminator
from t2v.nets.scorer import ScorerTowers
from t2v.world.oracle import WorldOracle


def own() -> AutoencoderKLT2V:
    config = VAEConfig(
        latent_channels=3, patch_size=(1, 1, 1), block_out_channels=(8, 8), layers_per_block=1,
        decoder_layers_per_block=1, temporal_downsample=(True,), spatial_downsample=(True,),
    )  # fmt: skip
    return AutoencoderKLT2V(**asdict(config))


def wan() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4, z_dim=3, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True]
    )


class Eye(nn.Module):
    """The part of a scorer that sees."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = ScorerTowers(channels=8, width=16, layers=1, heads=2, dim=8, text_dim=8)

    def forward(self, video: Tensor) -> Tensor:
        return self.towers.embed_video(video)


NETWORKS = {
    "decoder": (lambda: own().decoder, (1, 3, 2, 2, 2)),
    "encoder": (lambda: own().encoder, (1, 3, 3, 4, 4)),
    "decoder of Wan's": (lambda: wan().decoder, (1, 3, 2, 2, 2)),
    "encoder of Wan's": (lambda: wan().encoder, (1, 3, 5, 4, 4)),
    "upscaler": (
        lambda: VideoUpscaler(scale=2, width=8, layers=(1, 1, 1), steadiness=0.0),
        (1, 3, 3, 8, 8),
    ),
    "scorer": (Eye, (1, 3, 5, 32, 32)),
    "oracle": (lambda: WorldOracle(8), (2, 3, 5, 32, 32)),
    "discriminator": (lambda: PatchDiscriminator(3, 8), (1, 3, 9, 32, 32)),
}


@pytest.mark.parametrize("learning", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=[pytest.mark.slow] * (each != "decoder")) for each in NETWORKS],
)
def test_a_network_is_one_graph(name, learning, wake):
    build, shape = NETWORKS[name]
    network, given = wake(build()), torch.randn(shape)
    with torch.set_grad_enabled(learning):
        expected = network(given)
        found = torch.compile(network, backend="eager", fullgraph=True)(given)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
