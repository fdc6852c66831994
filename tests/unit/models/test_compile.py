"""Every network is one graph to a compiler: `torch.compile(fullgraph=True)` finds no break.

A transformer of text alone is in `test_transformer.py`. Tracing takes seconds a network, so all but
one are for the night.
"""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from t2v.config.models import VAEConfig
from t2v.models.transformer import T2VTransformer3DModel
from t2v.models.upscaler import VideoUpscaler
from t2v.models.vae import AutoencoderKLT2V
from t2v.models.wan_vae import AutoencoderKLWan
from t2v.nets.discriminator import PatchDiscriminator
from t2v.nets.scorer import ScorerTowers
from t2v.world.oracle import WorldOracle
from t2v.world.text import CaptionReader


def own() -> AutoencoderKLT2V:
    config = VAEConfig(
        latent_channels=3, patch_size=(1, 1, 1), block_out_channels=(8, 8), layers_per_block=1,
        decoder_layers_per_block=1, temporal_downsample=(True,), spatial_downsample=(True,),
    )  # fmt: skip
    return AutoencoderKLT2V(**asdict(config))


def wan(**changes: Any) -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=3,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        **changes,
    )


class Eye(nn.Module):
    """The part of a scorer that sees."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = ScorerTowers(channels=8, width=16, layers=1, heads=2, dim=8, text_dim=8)

    def forward(self, video: Tensor) -> Tensor:
        return self.towers.embed_video(video)


class Given(nn.Module):
    """A transformer told of pictures, and of a time for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = T2VTransformer3DModel(
            **SMALL, attention="factorized", conditioning="tokens", picture_tokens=True
        )

    def forward(self, video: Tensor) -> Tensor:
        b, _, t, h, w = video.shape
        return self.transformer(
            video,
            video.new_full((b, t * h * w // 4), 500.0),
            video.new_ones(b, 5, 16),
            pictures=video[:, :, :1],
            picture_positions=video.new_full((b, 1), 1.5),
            return_dict=False,
        )[0]


class Read(nn.Module):
    """What is read of captions beside a text encoder that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = CaptionReader(16)

    def forward(self, text: Tensor) -> Tensor:
        mask = torch.ones(text.shape[:2], dtype=torch.bool)
        return torch.cat([each.flatten() for _, *both in self.reader(text, mask) for each in both])


SMALL: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
    "text_dim": 16, "ffn_dim": 32, "num_layers": 2,
}  # fmt: skip
NETWORKS = {
    "transformer with all that is given": (Given, (1, 4, 2, 4, 4)),
    "decoder of Wan 2.2's": (lambda: wan(is_residual=True).decoder, (1, 3, 2, 2, 2)),
    "reader of captions": (Read, (2, 5, 16)),
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


class Operations(TorchDispatchMode):
    """Counts what computes or moves bytes: a GPU launches a kernel for each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        is_view = any(each.alias_info and not each.alias_info.is_write for each in schema.returns)
        self.count += not is_view and func is not torch.ops.aten.detach.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("dtype", "learning", "most"),
    [(torch.float32, False, 50), (torch.bfloat16, False, 87), (torch.float32, True, 266)],
    ids=["fp32", "bf16", "training under autocast"],
)
def test_a_block_is_no_more_operations_than_it_was(dtype, learning, most, wake):
    counts = []
    for layers in (1, 2):
        model = wake(T2VTransformer3DModel(**SMALL | {"num_layers": layers})).to(dtype)
        given = torch.randn(1, 4, 2, 4, 4).to(dtype), torch.tensor([5.0]), torch.ones(1, 5, 16)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=learning)
        with Operations() as operations, torch.set_grad_enabled(learning), autocast:
            found = model(given[0], given[1].to(dtype), given[2].to(dtype), return_dict=False)[0]
            if learning:
                found.float().square().mean().backward()
        counts.append(operations.count)
    assert counts[1] - counts[0] <= most
