"""Causal layers over video: convolution with a feature cache, norms, resampling, patches.

All of them keep `channels_last_3d` input in that layout, where convolutions are fastest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from t2v.models.kernels.plain import conv3d

WHOLE_FRAMES = 16  # that a video goes on by where it can only be decoded whole


class FeatureCache:
    """The state of a causal network between two chunks of one video.

    A plain object rather than a dict, so that offload hooks hand it through untouched.
    """

    def __init__(self) -> None:
        self.past: dict[nn.Module, Tensor] = {}  # last input frames of each convolution
        self.started = False  # True once the first chunk, the one with frame 0, has passed


class DecodeStream:
    """The state of a decoder between the pieces of one video, for each of its tiles."""

    def __init__(self) -> None:
        self.caches: list[FeatureCache] = []

    def in_turn(self) -> Iterator[FeatureCache]:
        """Yield the caches of the tiles, in the order in which every piece has them."""
        for number in count():
            if number == len(self.caches):
                self.caches.append(FeatureCache())
            yield self.caches[number]


def is_first(cache: FeatureCache | None) -> bool:
    """True where the current chunk begins with frame 0 of the video."""
    return cache is None or not cache.started


class CausalConv3d(nn.Conv3d):
    """3D convolution over the present and `kernel - 1` past frames, with zeros before frame 0.

    With `stride` 2, height and width are halved and padded on the right and bottom, as in
    diffusers' `Downsample2D`; time is never strided.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int] = (3, 3), stride: int = 1
    ) -> None:
        taps, size = kernel
        super().__init__(
            in_channels,
            out_channels,
            (taps, size, size),
            stride=(1, stride, stride),
            padding=(0, size // 2, size // 2) if stride == 1 else 0,
        )

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        x = self._after_past(x, cache)
        if self.stride[-1] == 2:
            x = F.pad(x, (0, 1, 0, 1))
        return conv3d(x, self)

    def _after_past(self, x: Tensor, cache: FeatureCache | None) -> Tensor:
        taps = self.kernel_size[0]
        if taps == 1:
            return x
        if cache is None or not cache.started:
            x = F.pad(x, (0, 0, 0, 0, taps - 1, 0))
        else:
            x = torch.cat([cache.past[self], x], dim=2)
        if cache is not None:
            cache.past[self] = x[:, :, 1 - taps :].clone()  # a view would keep the whole chunk
        return x


class RMSNorm(nn.Module):
    """Every position of videos or pictures (`b c ...`) divided by the root mean square of its own
    channels."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        # vector_norm reads x once, accumulates in fp32 and writes no full-size intermediate
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        scale = x.shape[1] ** 0.5 / (norm + self.eps)
        weight = self.weight.reshape(-1, *[1] * (x.ndim - 2))
        return x * scale.to(x.dtype) * weight.to(x.dtype)


class FrameGroupNorm(nn.GroupNorm):
    """GroupNorm with the statistics of one frame, so that no frame depends on the future."""

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        frames = super().forward(rearrange(x, "b c t h w -> (b t) c h w"))
        return rearrange(frames, "(b t) c h w -> b c t h w", b=len(x))


def norm_layer(kind: str, channels: int) -> nn.Module:
    """The norm named `kind`: "rms" or "group"."""
    return {"rms": RMSNorm, "group": FrameGroupNorm}[kind](channels)


def silu(x: Tensor) -> Tensor:
    """SiLU of a tensor that nothing else refers to: in place where no gradient needs the input."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResidualBlock(nn.Module):
    """Norm, SiLU and causal convolution, twice, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.norm1 = norm_layer(norm, in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = norm_layer(norm, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        widened = in_channels != out_channels
        self.conv_shortcut = CausalConv3d(in_channels, out_channels, (1, 1)) if widened else None

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        h = self.conv1(silu(self.norm1(x)), cache=cache)
        h = self.conv2(silu(self.norm2(h)), cache=cache)
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class FrameAttention(nn.Module):
    """Single-head attention among the positions of each frame, beside a shortcut."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.group_norm = norm_layer(norm, channels)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])  # diffusers' name and depth

    def forward(self, x: Tensor) -> Tensor:
        h = rearrange(self.group_norm(x), "b c t h w -> (b t) 1 (h w) c")
        h = F.scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h))
        h = self.to_out[0](h)
        return x + rearrange(h, "(b t) 1 (h w) c -> b c t h w", b=len(x), h=x.shape[-2])


class Downsample(nn.Module):
    """Half the height and width by a strided convolution."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, (taps, 3), stride=2)

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        return self.conv(x, cache=cache)


class Upsample(nn.Module):
    """Twice the height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, (taps, 3))

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        x = repeat(x, "b c t h w -> b t (h q) (w r) c", q=2, r=2)
        return self.conv(channels_first(x), cache=cache)


def halve_frames(x: Tensor, first: bool) -> Tensor:
    """Mean of each pair of frames; frame 0 of a video stays alone (xGen-VideoSyn-1)."""
    start = 1 if first else 0
    pairs = (x[:, :, start::2] + x[:, :, start + 1 :: 2]) * 0.5
    return torch.cat([x[:, :, :1], pairs], dim=2) if first else pairs


def double_frames(x: Tensor, first: bool) -> Tensor:
    """Every frame twice, the inverse of `halve_frames` on static video."""
    x = channels_first(repeat(x, "b c t h w -> b (t p) h w c", p=2))
    return x[:, :, 1:] if first else x


def joined(pieces: Iterator[Tensor], frames: int) -> Tensor:
    """Videos `b c t h w` of pieces that follow one another, `frames` in all.

    It is allocated once: a list of the pieces would hold it twice.
    """
    video, start = None, 0
    for piece in pieces:
        if piece.shape[2] == frames:
            return piece
        if video is None:
            video = piece.new_empty(*piece.shape[:2], frames, *piece.shape[3:])
        video[:, :, start : start + piece.shape[2]] = piece
        start += piece.shape[2]
    assert video is not None
    return video


def channels_first(x: Tensor) -> Tensor:
    """`b t h w c` in memory order viewed as `b c t h w`: the layout channels_last_3d, uncopied."""
    return rearrange(x, "b t h w c -> b c t h w")


def fold_patches(x: Tensor, patch: tuple[int, int, int], first: bool) -> Tensor:
    """Patches of pixels as channels, `b c t h w -> b t' h' w' (patch c)`.

    Frame 0 of a video fills a patch alone, repeated, so an image is a video that stands still.
    """
    p, q, r = patch
    if first and p > 1:
        x = torch.cat([x[:, :, :1].expand(-1, -1, p - 1, -1, -1), x], dim=2)
    return rearrange(x, "b c (t p) (h q) (w r) -> b t h w (p q r c)", p=p, q=q, r=r)


def unfold_patches(x: Tensor, patch: tuple[int, int, int], first: bool) -> Tensor:
    """The inverse of `fold_patches`: of the first patch only the last frame is kept."""
    p, q, r = patch
    x = rearrange(x, "b t h w (p q r c) -> b c (t p) (h q) (w r)", p=p, q=q, r=r)
    return x[:, :, p - 1 :] if first else x
