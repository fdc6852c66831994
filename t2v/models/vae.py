"""`AutoencoderKLT2V`: the causal video autoencoder, streamed over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import prod

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import FromOriginalModelMixin
from diffusers.models.autoencoders.vae import (
    AutoencoderMixin,
    DecoderOutput,
    DiagonalGaussianDistribution,
)
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange
from torch import Tensor, nn

from t2v.errors import UserError
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


class DownBlock(nn.Module):
    """Residual blocks, then half the height and width, then half the frames, where asked."""

    def __init__(self, widths: Sequence[int], norm: str, taps: int, space: bool, time: bool):
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

    def __init__(self, widths: Sequence[int], norm: str, taps: int, space: bool, time: bool):
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

    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        patch: Patch,
        whole_patch: Patch,
        widths: Sequence[int],
        layers: int,
        norm: str,
        taps: int,
        space: Sequence[bool],
        time: Sequence[bool],
        mid_block: bool,
        mid_attention: bool,
        shortcut: bool,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.patch, self.whole_patch = patch, whole_patch
        self.conv_in = CausalConv3d(in_channels * prod(patch), widths[0])
        self.down_blocks = nn.ModuleList(
            DownBlock([before, *[width] * layers], norm, taps, *halve)
            for before, width, *halve in zip(
                (widths[0], *widths), widths, (*space, False), (*time, False), strict=False
            )
        )
        self.mid_block = MidBlock(widths[-1], norm, mid_attention) if mid_block else None
        self.conv_norm_out = norm_layer(norm, widths[-1])
        self.conv_out = CausalConv3d(widths[-1], 2 * latent_channels)
        patch_dim = in_channels * prod(whole_patch)
        self.shortcut = nn.Linear(patch_dim, latent_channels) if shortcut else None
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
        h = self.conv_in(h, cache=cache)
        h = run_blocks(self, (*self.down_blocks, self.mid_block), h, cache)
        moments = self.conv_out(silu(self.conv_norm_out(h)), cache=cache)
        if self.shortcut is None:
            return moments
        mean, logvar = moments.chunk(2, dim=1)
        linear = channels_first(self.shortcut(fold_patches(x, self.whole_patch, first)))
        return torch.cat([mean + linear, logvar], dim=1)


class Decoder(nn.Module):
    """Latents `b z t' h' w'` to video `b c t h w`, the mirror of `Encoder`."""

    def __init__(
        self,
        out_channels: int,
        latent_channels: int,
        patch: Patch,
        whole_patch: Patch,
        widths: Sequence[int],
        layers: int,
        norm: str,
        taps: int,
        space: Sequence[bool],
        time: Sequence[bool],
        mid_block: bool,
        mid_attention: bool,
        shortcut: bool,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.patch, self.whole_patch = patch, whole_patch
        widths = tuple(reversed(widths))
        self.conv_in = CausalConv3d(latent_channels, widths[0])
        self.mid_block = MidBlock(widths[0], norm, mid_attention) if mid_block else None
        self.up_blocks = nn.ModuleList(
            UpBlock([before, *[width] * layers], norm, taps, *double)
            for before, width, *double in zip(
                (widths[0], *widths),
                widths,
                (*space[::-1], False),
                (*time[::-1], False),
                strict=False,
            )
        )
        self.conv_norm_out = norm_layer(norm, widths[-1])
        self.conv_out = CausalConv3d(widths[-1], out_channels * prod(patch))
        patch_dim = out_channels * prod(whole_patch)
        self.shortcut = nn.Linear(latent_channels, patch_dim) if shortcut else None
        if shortcut:
            nn.init.zeros_(self.conv_out.weight)  # a fresh decoder is its linear shortcut
            nn.init.zeros_(self.conv_out.bias)

    def forward(self, z: Tensor, cache: FeatureCache | None = None) -> Tensor:
        first = is_first(cache)
        z = z.contiguous(memory_format=torch.channels_last_3d)
        h = self.conv_in(z, cache=cache)
        h = run_blocks(self, (self.mid_block, *self.up_blocks), h, cache)
        h = self.conv_out(silu(self.conv_norm_out(h)), cache=cache)
        x = unfold_patches(h.movedim(1, -1), self.patch, first)
        if self.shortcut is None:
            return x
        return x + unfold_patches(self.shortcut(z.movedim(1, -1)), self.whole_patch, first)


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


class AutoencoderKLT2V(ModelMixin, AutoencoderMixin, ConfigMixin, FromOriginalModelMixin):
    """Causal 3D variational autoencoder for videos and images.

    `k * scale_factor_temporal + 1` frames in [-1, 1] give `k + 1` latent frames, each
    `scale_factor_spatial` times smaller in height and width; an image is one frame. Without
    gradients, time passes in chunks of `chunk_latent_frames`, so memory does not grow with the
    length; the result is that of the whole video up to float rounding (convolution kernels may
    sum in another order at another length). With gradients the whole video runs at once.

    The keywords are those of `t2v.config.VAEConfig`, and:
        latents_mean, latents_std: per latent channel, what the denoiser's latents are
            normalised by; 0 and 1 if not given.
        scale_factor_temporal, scale_factor_spatial: follow from the rest; if given, must agree.

    The shape (residual blocks, causal convolutions, temporal average pooling, streaming by
    chunks) follows xGen-VideoSyn-1 (arXiv 2408.12590), its parts are named as in diffusers'
    `AutoencoderKL`.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("ResidualBlock", "FrameAttention")
    _group_offload_block_modules = ("quant_conv", "post_quant_conv", "encoder", "decoder")
    _skip_keys = ("cache",)

    @register_to_config
    def __init__(
        self,
        in_channels: int,
        latent_channels: int,
        patch_size: Patch,
        block_out_channels: Sequence[int],
        layers_per_block: int,
        decoder_layers_per_block: int,
        temporal_downsample: Sequence[bool],
        spatial_downsample: Sequence[bool],
        resample_taps: int,
        norm: str,
        mid_block: bool,
        mid_attention: bool,
        quant_conv: bool,
        linear_shortcut: bool,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        scale_factor_temporal: int | None = None,
        scale_factor_spatial: int | None = None,
    ) -> None:
        super().__init__()
        temporal = patch_size[0] * 2 ** sum(temporal_downsample)
        spatial = patch_size[1] * 2 ** sum(spatial_downsample)
        for given, derived in ((scale_factor_temporal, temporal), (scale_factor_spatial, spatial)):
            if given not in (None, derived):
                raise UserError(
                    f"A scale factor of {given} does not fit patch_size={patch_size} and the "
                    f"downsampling, which give {derived}. Leave it out, or give {derived}."
                )
        self.register_to_config(
            scale_factor_temporal=temporal,
            scale_factor_spatial=spatial,
            latents_mean=latents_mean or [0.0] * latent_channels,
            latents_std=latents_std or [1.0] * latent_channels,
        )
        shared = dict(
            patch=tuple(patch_size),
            whole_patch=(temporal, spatial, spatial),
            widths=tuple(block_out_channels),
            norm=norm,
            taps=resample_taps,
            space=tuple(spatial_downsample),
            time=tuple(temporal_downsample),
            mid_block=mid_block,
            mid_attention=mid_attention,
            shortcut=linear_shortcut,
        )
        z = latent_channels
        self.encoder = Encoder(in_channels, z, layers=layers_per_block, **shared)
        self.decoder = Decoder(in_channels, z, layers=decoder_layers_per_block, **shared)
        self.quant_conv = nn.Conv3d(2 * z, 2 * z, 1) if quant_conv else None
        self.post_quant_conv = nn.Conv3d(z, z, 1) if quant_conv else None
        self.chunk_latent_frames = 5
        self.use_slicing = False
        self.use_tiling = False

    @apply_forward_hook
    def encode(
        self, x: Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """The distribution of the latents of `x`.

        Args:
            x: videos in [-1, 1], `b c t h w`; `t` is `k * scale_factor_temporal + 1`, `h` and `w`
                are multiples of `scale_factor_spatial`.

        Raises:
            UserError: another shape; the message names the nearest allowed sizes.
        """
        self.check_video(x)
        posterior = DiagonalGaussianDistribution(self._by_slice(self._encode, x))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """The videos, about [-1, 1] and not clamped, `b c t h w`, of latents `z`, `b z t h w`."""
        if z.ndim != 5 or z.shape[1] != self.config.latent_channels:
            raise UserError(
                f"Latents of shape {tuple(z.shape)} do not fit this VAE, which decodes "
                f"(batch, {self.config.latent_channels}, frames, height, width)."
            )
        video = self._by_slice(self._decode, z)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """The reconstruction of `sample` from a draw of its latents, or from their mode."""
        posterior = self.encode(sample).latent_dist
        z = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(z, return_dict=return_dict)

    @torch.no_grad()
    def init_linear_shortcut(self, videos: Tensor) -> Tensor:
        """Set the linear shortcut to the principal components of `videos`, in closed form.

        A fresh VAE (its convolutions end in zeros) then reconstructs as PCA of whole patches does.
        Latents are divided by the first component's standard deviation, so that the first has
        unit variance and the others keep their share.

        Args:
            videos: in [-1, 1], `b c t h w`, sizes as `encode` takes them.

        Returns:
            The standard deviation of every principal component kept, `z`, float64.

        Raises:
            UserError: no shortcut, or the videos vary in fewer ways than there are latents.
        """
        self.check_video(videos)
        inward, outward = self.encoder.shortcut, self.decoder.shortcut
        if inward is None or outward is None:
            raise UserError("This VAE has no linear shortcut: build it with linear_shortcut=true.")
        count, total, square = 0, 0.0, 0.0
        for batch in videos.split(16):
            patches = fold_patches(batch.to(inward.weight), self.encoder.whole_patch, first=True)
            patches = rearrange(patches, "b t h w p -> (b t h w) p").double()
            count += len(patches)
            total = total + patches.sum(dim=0)
            square = square + patches.T @ patches
        mean = total / count
        variance, basis = torch.linalg.eigh(square / count - torch.outer(mean, mean))
        z = inward.out_features
        variance, basis = variance[-z:].flip(0), basis[:, -z:].flip(1)  # largest first
        if len(variance) < z or variance[-1] <= 1e-9 * variance[0]:
            raise UserError(
                f"The {count} patches of these videos vary in fewer than {z} ways, one for each "
                "latent channel: pass more, or more varied, videos."
            )
        scale = variance[0].sqrt()
        inward.weight.copy_(basis.T / scale)
        inward.bias.copy_(-(mean @ basis) / scale)
        outward.weight.copy_(basis * scale)
        outward.bias.copy_(mean)
        return variance.sqrt()

    def _by_slice(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.cat([run(one) for one in x.split(1)]) if self.use_slicing else run(x)

    def _encode(self, x: Tensor) -> Tensor:
        stride = self.config.scale_factor_temporal
        chunks = []
        for start, stop, cache in self._chunks(1 + (x.shape[2] - 1) // stride):
            begin, end = (max(0, 1 + (n - 1) * stride) for n in (start, stop))
            h = self.encoder(x[:, :, begin:end], cache=cache)
            chunks.append(h if self.quant_conv is None else self.quant_conv(h))
        return torch.cat(chunks, dim=2)

    def _decode(self, z: Tensor) -> Tensor:
        chunks = []
        for start, stop, cache in self._chunks(z.shape[2]):
            h = z[:, :, start:stop]
            h = h if self.post_quant_conv is None else self.post_quant_conv(h)
            chunks.append(self.decoder(h, cache=cache))
        return torch.cat(chunks, dim=2)

    def _chunks(self, frames: int) -> Iterator[tuple[int, int, FeatureCache | None]]:
        """Spans of latent frames to pass one after the other, with the cache to pass along."""
        if torch.is_grad_enabled() or frames <= self.chunk_latent_frames:
            yield 0, frames, None
            return
        cache = FeatureCache()
        for start in range(0, frames, self.chunk_latent_frames):
            yield start, min(start + self.chunk_latent_frames, frames), cache
            cache.started = True

    def check_video(self, x: Tensor) -> None:
        """Raise `UserError` where `encode` could not take `x`, naming the nearest sizes."""
        if x.ndim != 5 or x.shape[1] != self.config.in_channels:
            raise UserError(
                f"A video of shape {tuple(x.shape)} does not fit this VAE, which encodes "
                f"(batch, {self.config.in_channels}, frames, height, width)."
            )
        time, space = self.config.scale_factor_temporal, self.config.scale_factor_spatial
        frames, height, width = x.shape[2:]
        if (frames - 1) % time:
            below = (frames - 1) // time * time + 1
            raise UserError(
                f"num_frames={frames} does not fit the VAE, which takes {time}k+1 frames. "
                f"Nearest: {below} or {below + time}."
            )
        for name, size in (("height", height), ("width", width)):
            if size % space or not size:
                below = size // space * space
                nearest = f"{below} or {below + space}" if below else f"{space}"
                raise UserError(
                    f"{name}={size} does not fit the VAE, which takes multiples of {space}. "
                    f"Nearest: {nearest}."
                )
