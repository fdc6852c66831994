"""The layers of Wan's VAE, each diffusers' own with another `forward`.

Names and weights are those that diffusers made, so what is done to its layers (saving, offload,
quantization, adapters) is done to these. Results differ from diffusers' by float rounding.

All keep `channels_last_3d`, where convolutions are fastest. A norm leaves room for the past frames
that the convolution behind it fills in, which saves a copy of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders import autoencoder_kl_wan as wan
from einops import rearrange
from torch import Tensor, nn

from t2v.models.causal import FeatureCache, channels_first, is_first
from t2v.models.kernels.plain import convolution


class CausalConv(wan.WanCausalConv3d):
    """A convolution over the present and past frames, with zeros before frame 0."""

    def forward(self, x: Tensor, cache: FeatureCache | None = None, room: int = 0) -> Tensor:
        """The convolution of `x`, `b c t h w`, after `room` frames that are to be overwritten."""
        _, width, _, height, past, _ = self._padding
        if past:
            x = self._after_past(x, cache, past, room)
        padding = (0, height, width)
        return convolution(x, self.weight, self.bias, self.stride, padding)

    def _after_past(self, x: Tensor, cache: FeatureCache | None, past: int, room: int) -> Tensor:
        before = None if cache is None else cache.past.get(self)
        if room:
            x[:, :, :room] = 0 if before is None else before
        elif before is None:
            x = F.pad(x, (0, 0, 0, 0, past, 0))
        else:
            x = torch.cat([before, x], dim=2)
        if cache is not None:
            cache.past[self] = x[:, :, -past:].clone()  # a view would keep the whole chunk
        return x


class FrameConv(nn.Conv2d):
    """A convolution of each frame, `b c t h w`."""

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.padding, tuple)
        padding = (0, *self.padding)
        return convolution(x, self.weight.unsqueeze(2), self.bias, (1, *self.stride), padding)


class DoublingConv(FrameConv):
    """A 3x3 convolution of each frame, after every pixel was repeated twice each way.

    Under the kernel lie 2x2 different pixels at most, and which of them are equal depends on the
    parity of the place: four kernels of 2x2 with summed weights, one a parity, do the same.
    """

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        weight = None if cache is None else cache.past.get(self)
        if weight is None:
            weight = self._by_parity()
            if cache is not None:
                cache.past[self] = weight
        bias = None if self.bias is None else self.bias.repeat(4)
        four = convolution(x, weight, bias, padding=(0, 1, 1))
        four = rearrange(four, "b (p q c) t h w -> p q b t h w c", p=2, q=2)
        b, _, t, h, w = x.shape
        out = x.new_empty(b, t, h, 2, w, 2, self.out_channels)
        for p in (0, 1):
            for q in (0, 1):
                out[:, :, :, p, :, q] = four[p, q, :, :, p : p + h, q : q + w]
        return rearrange(out, "b t h p w q c -> b c t (h p) (w q)")

    def _by_parity(self) -> Tensor:
        """Weights `(4 out) in 1 2 2`, summed in float32."""

        def both(weight: Tensor, dim: int) -> Tensor:
            before, own, after = weight.unbind(dim)
            even = torch.stack([before, own + after], dim)
            return torch.stack([even, torch.stack([before + own, after], dim)])

        weight = both(both(self.weight.float(), 2), 4)
        return rearrange(weight, "q p o i h w -> (p q o) i 1 h w").to(self.weight)


class Norm(wan.WanRMS_norm):
    """Every position of `b c t h w` divided by the root mean square of its channels."""

    def forward(self, x: Tensor, active: bool = False, room: int = 0) -> Tensor:
        """The normalised `x`, after SiLU if `active`, behind `room` frames that hold anything."""
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12)
        scale, gamma = self.scale / norm, self.gamma.reshape(-1, 1, 1, 1)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            x = x * scale * gamma
            return F.pad(F.silu(x) if active else x, (0, 0, 0, 0, room, 0))
        b, c, t, h, w = x.shape
        whole = channels_first(x.new_empty(b, room + t, h, w, c))
        y = whole[:, :, room:]
        torch.mul(x, scale, out=y).mul_(gamma)
        if active:
            F.silu(y, inplace=True)
        return whole


class AvgDown(wan.AvgDown3D):
    """The means of groups of neighbours in space, time and channels."""

    def forward(self, x: Tensor, first: bool) -> Tensor:
        if first:
            x = F.pad(x, (0, 0, 0, 0, self.factor_t - 1, 0))
        p, q = self.factor_t, self.factor_s
        x = rearrange(x, "b c (t p) (h q) (w r) -> b t h w (c p q r)", p=p, q=q, r=q)
        return channels_first(x.unflatten(-1, (self.out_channels, self.group_size)).mean(-1))


class DupUp(wan.DupUp3D):
    """Channels repeated, and then spread over space and time."""

    def forward(self, x: Tensor, first: bool) -> Tensor:
        x = x.movedim(1, -1).repeat_interleave(self.repeats, dim=-1)
        p, q = self.factor_t, self.factor_s
        x = rearrange(x, "b t h w (o p q r) -> b o (t p) (h q) (w r)", p=p, q=q, r=q)
        return x[:, :, p - 1 :] if first else x


class Resample(wan.WanResample):
    """Twice, or half, the height and width, and the frames too in the modes of 3D.

    Frame 0 of a video is neither doubled nor halved in time.
    """

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        if self.mode == "downsample3d":
            return self._half_as_many(self.resample[1](F.pad(x, (0, 1, 0, 1))), cache)
        if self.mode == "downsample2d":
            return self.resample[1](F.pad(x, (0, 1, 0, 1)))
        if self.mode == "upsample3d":
            x = self._twice_as_many(x, cache)
        return self.resample[1](x, cache=cache)

    def _half_as_many(self, x: Tensor, cache: FeatureCache | None) -> Tensor:
        head = x[:, :, :1] if is_first(cache) else None
        if cache is not None:
            before, cache.past[self] = cache.past.get(self), x[:, :, -1:].clone()
            x = x if before is None else torch.cat([before, x], dim=2)
        if head is None:
            return self.time_conv(x)
        return torch.cat([head, self.time_conv(x)], dim=2) if x.shape[2] > 1 else head

    def _twice_as_many(self, x: Tensor, cache: FeatureCache | None) -> Tensor:
        if not is_first(cache):
            return self._doubled(x, cache)
        head, x = x[:, :, :1], x[:, :, 1:]
        return torch.cat([head, self._doubled(x, cache)], dim=2) if x.shape[2] else head

    def _doubled(self, x: Tensor, cache: FeatureCache | None) -> Tensor:
        x = self.time_conv(x, cache=cache)
        return channels_first(rearrange(x, "b (p c) t h w -> b (t p) h w c", p=2))


class ResidualBlock(wan.WanResidualBlock):
    """Norm, SiLU and convolution, twice, beside a shortcut."""

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        h = self.conv1(self.norm1(x, active=True, room=2), cache=cache, room=2)
        h = self.conv2(self.norm2(h, active=True, room=2), cache=cache, room=2)
        shortcut = self.conv_shortcut(x)
        return h + shortcut if torch.is_grad_enabled() else h.add_(shortcut)


class Attention(wan.WanAttentionBlock):
    """Attention among the positions of each frame, beside a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        qkv = rearrange(self.to_qkv(self.norm(x)), "b (n c) t h w -> n (b t) 1 (h w) c", n=3)
        h = F.scaled_dot_product_attention(*qkv)
        h = rearrange(h, "(b t) 1 (h w) c -> b c t h w", b=len(x), h=x.shape[-2])
        return x + self.proj(h)


class MidBlock(wan.WanMidBlock):
    """Residual blocks with attention between them."""

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        x = self.resnets[0](x, cache=cache)
        for attention, block in zip(self.attentions, self.resnets[1:], strict=True):
            x = block(attention(x), cache=cache)
        return x


class DownBlock(wan.WanResidualDownBlock):
    """Residual blocks and downsampling, beside means of the input (Wan 2.2)."""

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        return _through(layers(self), x, cache) + self.avg_shortcut(x, first=is_first(cache))


class UpBlock(wan.WanUpBlock):
    """Residual blocks and upsampling (Wan 2.1)."""

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        return _through(layers(self), x, cache)


class ResidualUpBlock(wan.WanResidualUpBlock):
    """Residual blocks and upsampling, beside a copy of the input (Wan 2.2)."""

    def forward(self, x: Tensor, cache: FeatureCache | None = None) -> Tensor:
        h = _through(layers(self), x, cache)
        return h if self.avg_shortcut is None else h + self.avg_shortcut(x, first=is_first(cache))


def layers(block: nn.Module) -> list[nn.Module]:
    """The layers of a block that follow one another."""
    if isinstance(block, UpBlock):
        return [*block.resnets, *(block.upsamplers or ())]
    if isinstance(block, DownBlock | ResidualUpBlock):
        last = block.downsampler if isinstance(block, DownBlock) else block.upsampler
        return [*block.resnets, *([] if last is None else [last])]
    return [block]


def _through(steps: Sequence[nn.Module], x: Tensor, cache: FeatureCache | None) -> Tensor:
    for step in steps:
        x = step(x, cache=cache)
    return x


def margins(steps: Sequence[nn.Module], scale: int) -> list[int]:
    """The latents beyond a tile that each step has to see; 0 for what comes out of the last.

    Args:
        scale: pixels a latent, after the last step.
    """
    pixels, found = 0, [0]
    for step in reversed(steps):
        for layer in reversed(layers(step)):
            if not isinstance(layer, Resample):
                pixels += 2 if isinstance(layer, ResidualBlock) else 1
            elif layer.mode.startswith("up"):
                pixels, scale = ceil((pixels + 1) / 2), scale // 2
            else:
                pixels, scale = 2 * pixels + 1, scale * 2
        found.append(ceil(pixels / scale))
    return found[::-1]


SWAPS: dict[type, type] = {
    wan.WanCausalConv3d: CausalConv,
    nn.Conv2d: FrameConv,
    wan.WanRMS_norm: Norm,
    wan.AvgDown3D: AvgDown,
    wan.DupUp3D: DupUp,
    wan.WanResample: Resample,
    wan.WanResidualBlock: ResidualBlock,
    wan.WanAttentionBlock: Attention,
    wan.WanMidBlock: MidBlock,
    wan.WanResidualDownBlock: DownBlock,
    wan.WanUpBlock: UpBlock,
    wan.WanResidualUpBlock: ResidualUpBlock,
}


def swap_layers(network: nn.Module) -> None:
    """Give diffusers' layers in a network the classes of this file."""
    for layer in network.modules():
        layer.__class__ = SWAPS.get(type(layer), type(layer))
        if isinstance(layer, Resample) and layer.mode.startswith("up"):
            layer.resample[1].__class__ = DoublingConv
