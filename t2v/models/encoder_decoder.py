"""The encoder and the decoder of `AutoencoderKLT2V`; parts are named as in `AutoencoderKL`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod

import torch
from torch import Tensor, nn

from t2v.models.causal import (
    CausalConv3d,
    Downsample,
    FeatureCache,
    FrameAttention,
    ResidualBlock,
    Upsample,
    channels_first,
    double_frames,
    fold_patches,
    halve_frames,
    is_first,
    norm_layer,
    silu,
    unfold_patches,
)

Patch = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class CoderShape:
    """The settings that the encoder and the decoder share, in the order of the encoder."""

    channels: int  # of the video
    latent_channels: int
    patch: Patch  # frames, height, width in pixels that the stem folds into channels
    whole_patch: Patch  # pixels that one latent covers
    widths: tuple[int, ...]  # of each block
    norm: str
    taps: int  # frames that the resampling convolutions see
    space: tuple[bool, ...]  # for each step between two blocks: halve height and width
    time: tuple[bool, ...]  # likewise: halve the frames
    mid_block: bool
    mid_attention: bool
    quant_conv: bool
    shortcut: bool


class DownBlock(nn.Module):
    """Residual blocks, then half the height and width, then half the frames, where asked."""

    def __init__(
        self, widths: Sequence[int], norm: str, taps: int, space: bool, time: bool
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(i, o, norm) for i, o in pairwise(widths))
        self.downsamplers = nn.ModuleList([Downsample(widths[-1], taps)] if space else [])
        self.time = time

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x, cache=cache)
        return halve_frames(x, is_first(cache)) if self.time else x


class UpBlock(nn.Module):
    """Residual blocks, then twice the frames, then twice the height and width, where asked."""

    def __init__(
        self, widths: Sequence[int], norm: str, taps: int, space: bool, time: bool
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(i, o, norm) for i, o in pairwise(widths))
        self.upsamplers = nn.ModuleList([Upsample(widths[-1], taps)] if space else [])
        self.time = time

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        for layer in self.resnets:
            x = layer(x, cache=cache)
        if self.time:
            x = double_frames(x, is_first(cache))
        for layer in self.upsamplers:
            x = layer(x, cache=cache)
        return x


class MidBlock(nn.Module):
    """Two residual blocks with attention inside each frame between them."""

    def __init__(self, channels: int, norm: str, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels, norm) for _ in range(2))
        self.attentions = nn.ModuleList([FrameAttention(channels, norm)] if attention else [])

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        x = self.resnets[0](x, cache=cache)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x, cache=cache)


class Encoder(nn.Module):
    """Video `b c t h w` to the mean and log-variance of its latents, `b 2z t' h' w'`."""

    def __init__(self, shape: CoderShape, layers: int) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.patch, self.whole_patch = shape.patch, shape.whole_patch
        widths, norm, moments = shape.widths, shape.norm, 2 * shape.latent_channels
        self.conv_in = CausalConv3d(shape.channels * prod(shape.patch), widths[0])
        self.down_blocks = nn.ModuleList(
            DownBlock([before, *[width] * layers], norm, shape.taps, space, time)
            for before, width, space, time in zip(
                (widths[0], *widths[:-1]),
                widths,
                (*shape.space, False),
                (*shape.time, False),
                strict=True,
            )
        )
        self.mid_block = (
            MidBlock(widths[-1], norm, shape.mid_attention) if shape.mid_block else None
        )
        self.conv_norm_out = norm_layer(norm, widths[-1])
        self.conv_out = CausalConv3d(widths[-1], moments)
        self.quant_conv = CausalConv3d(moments, moments, (1, 1)) if shape.quant_conv else None
        patch_dim = shape.channels * prod(shape.whole_patch)
        self.shortcut = nn.Linear(patch_dim, shape.latent_channels) if shape.shortcut else None
        self._initialise_output()

    @torch.no_grad()
    def _initialise_output(self) -> None:
        mean_bias, logvar_bias = self.conv_out.bias.chunk(2)
        nn.init.zeros_(mean_bias)
        nn.init.constant_(logvar_bias, -5.0)  # noise of std 1 would drown a fresh encoder's signal
        if self.shortcut is not None:
            nn.init.zeros_(self.conv_out.weight)  # a fresh encoder is its linear shortcut

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        first = is_first(cache)
        h = channels_first(fold_patches(x, self.patch, first))
        h = h.contiguous(memory_format=torch.channels_last_3d)  # a patch of one pixel moved nothing
        h = self.conv_in(h, cache=cache)
        h = run_blocks(self, (*self.down_blocks, self.mid_block), h, cache)
        moments = self.conv_out(silu(self.conv_norm_out(h)), cache=cache)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        if self.shortcut is None:
            return moments
        mean, logvar = moments.chunk(2, dim=1)
        linear = channels_first(self.shortcut(fold_patches(x, self.whole_patch, first)))
        return torch.cat([mean + linear, logvar], dim=1)

    @property
    def reach(self) -> int:
        """The reach of a latent: how many latent cells away the pixels it depends on may lie."""
        cells = 5 if self.mid_block else 1
        steps = 0
        for block in reversed(self.down_blocks):
            if block.downsamplers:
                cells, steps = 2 * cells + 1, steps + 1
            cells += 2 * len(block.resnets)
        return ceil((cells + 1) / 2**steps)


class Decoder(nn.Module):
    """Latents `b z t' h' w'` to video `b c t h w`, the mirror of `Encoder`."""

    def __init__(self, shape: CoderShape, layers: int) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.patch, self.whole_patch = shape.patch, shape.whole_patch
        widths, norm, z = shape.widths[::-1], shape.norm, shape.latent_channels
        self.post_quant_conv = CausalConv3d(z, z, (1, 1)) if shape.quant_conv else None
        self.conv_in = CausalConv3d(z, widths[0])
        self.mid_block = MidBlock(widths[0], norm, shape.mid_attention) if shape.mid_block else None
        self.up_blocks = nn.ModuleList(
            UpBlock([before, *[width] * layers], norm, shape.taps, space, time)
            for before, width, space, time in zip(
                (widths[0], *widths[:-1]),
                widths,
                (*shape.space[::-1], False),
                (*shape.time[::-1], False),
                strict=True,
            )
        )
        self.conv_norm_out = norm_layer(norm, widths[-1])
        self.conv_out = CausalConv3d(widths[-1], shape.channels * prod(shape.patch))
        patch_dim = shape.channels * prod(shape.whole_patch)
        self.shortcut = nn.Linear(z, patch_dim) if shape.shortcut else None
        if self.shortcut is not None:
            nn.init.zeros_(self.conv_out.weight)  # a fresh decoder is its linear shortcut
            nn.init.zeros_(self.conv_out.bias)

    def forward(self, z: Tensor, cache: FeatureCache | None = None) -> Tensor:
        first = is_first(cache)
        h = z if self.post_quant_conv is None else self.post_quant_conv(z)
        h = h.contiguous(memory_format=torch.channels_last_3d)
        h = self.conv_in(h, cache=cache)
        h = run_blocks(self, (self.mid_block, *self.up_blocks), h, cache)
        h = self.conv_out(silu(self.conv_norm_out(h)), cache=cache)
        x = unfold_patches(h.movedim(1, -1), self.patch, first)
        if self.shortcut is None:
            return x
        return x + unfold_patches(self.shortcut(z.movedim(1, -1)), self.whole_patch, first)

    @property
    def reach(self) -> int:
        """The reach of a pixel: how many latent cells away the latents it depends on may lie."""
        cells = 1
        for block in reversed(self.up_blocks):
            if block.upsamplers:
                cells = ceil((cells + 1) / 2)
            cells += 2 * len(block.resnets)
        return cells + (5 if self.mid_block else 1)


def run_blocks(
    net: Encoder | Decoder,
    blocks: Sequence[nn.Module | None],
    x: Tensor,
    cache: FeatureCache | None,
) -> Tensor:
    """`x` through the blocks, recomputed in the backward pass where `net` checkpoints."""
    # recomputing would advance a cache twice, so only whole videos are checkpointed
    checkpoint = net.gradient_checkpointing and cache is None and torch.is_grad_enabled()
    for block in blocks:
        if block is None:
            continue
        x = net._gradient_checkpointing_func(block, x) if checkpoint else block(x, cache=cache)
    return x
