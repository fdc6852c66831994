"""`AutoencoderKLT2V`: the causal video autoencoder, streamed over time and tiled over space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
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
from torch import Tensor

from t2v.config.models import QuantizerName
from t2v.errors import UserError
from t2v.models.causal import (
    WHOLE_FRAMES,
    DecodeStream,
    FeatureCache,
    fold_patches,
    joined,
)
from t2v.models.encoder_decoder import CoderShape, Decoder, Encoder, Patch


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

    The architecture (residual blocks, causal convolutions, temporal average pooling, streaming by
    chunks) follows xGen-VideoSyn-1 (arXiv 2408.12590), its parts are named as in diffusers'
    `AutoencoderKL`. With a `quantizer` latents are those of codes (`t2v.models.quantizers`).
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("ResidualBlock", "FrameAttention")
    _group_offload_block_modules = ("encoder", "decoder")
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
        quantizer: QuantizerName = "none",
        codebook_size: int = 4096,
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
        shape = CoderShape(
            channels=in_channels,
            latent_channels=latent_channels,
            patch=(patch_size[0], patch_size[1], patch_size[2]),
            whole_patch=(temporal, spatial, spatial),
            widths=tuple(block_out_channels),
            norm=norm,
            taps=resample_taps,
            space=tuple(spatial_downsample),
            time=tuple(temporal_downsample),
            mid_block=mid_block,
            mid_attention=mid_attention,
            quant_conv=quant_conv,
            shortcut=linear_shortcut,
        )
        self.encoder = Encoder(shape, layers_per_block)
        self.decoder = Decoder(shape, decoder_layers_per_block)
        self.quantize: Any = None  # a `Quantizer`
        if quantizer != "none":
            from t2v.models.quantizers import Quantizer  # most VAEs have none

            self.quantize = Quantizer(quantizer, latent_channels, codebook_size)
        self.chunk_latent_frames = 5
        self.use_slicing = False
        self.use_tiling = False
        self.tile_sample_min_size = 256

    @classmethod
    def from_image_vae(
        cls, image_vae: AutoencoderKL, temporal_downsample: Sequence[bool]
    ) -> AutoencoderKLT2V:
        """`image_vae` inflated to video; it gives the same for one image and for any static video.

        Every 2D convolution becomes a causal 3D one whose last tap, the present frame, holds the
        2D weights and whose past taps are zero (xGen-VideoSyn-1, arXiv 2408.12590).

        Args:
            image_vae: a diffusers `AutoencoderKL` with 32 norm groups and SiLU.
            temporal_downsample: for each step between two blocks, true to halve the frames.

        Raises:
            UserError: the image VAE has parts that this class does not have.
        """
        from t2v.models.inflate import inflated  # few videos begin with a VAE of images

        return inflated(cls, image_vae, temporal_downsample)

    def enable_tiling(self, tile_sample_min_size: int | None = None) -> None:
        """Encode and decode in square tiles of `tile_sample_min_size` pixels (at first 256).

        Each tile includes a margin of its neighbours. With `norm="rms"` and no attention the margin
        covers the reach of the networks, so the result is that of the whole up to float rounding;
        otherwise the margin is a quarter of a tile, and neighbours are blended over it.

        Raises:
            UserError: a size that is not a positive multiple of `scale_factor_spatial`.
        """
        size = tile_sample_min_size or self.tile_sample_min_size
        space = self.config.scale_factor_spatial
        if size < space or size % space:
            raise UserError(
                f"tile_sample_min_size={size} does not fit the VAE: give a multiple of {space}."
            )
        self.tile_sample_min_size = size
        super().enable_tiling()

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
        zoom = self.config.scale_factor_spatial
        moments = self._by_part(self._encode, x, self.encoder.reach, -zoom)
        quantized = self.quantize and self.quantize.posterior(moments)
        posterior = quantized or DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """The videos, about [-1, 1] and not clamped, `b c t h w`, of latents `z`, `b z t h w`."""
        if z.ndim != 5 or z.shape[1] != self.config.latent_channels or 0 in z.shape:
            raise UserError(
                f"Latents of shape {tuple(z.shape)} do not fit this VAE, which decodes "
                f"(batch, {self.config.latent_channels}, frames, height, width)."
            )
        zoom = self.config.scale_factor_spatial
        video = self._by_part(self._decode, z, self.decoder.reach, zoom)
        return DecoderOutput(sample=video) if return_dict else (video,)

    @apply_forward_hook
    def decode_pieces(self, z: Tensor) -> Iterator[Tensor]:
        """Yield what `decode` gives of latents `z`, piece by piece.

        By tiles either every tile's state between the pieces is held, or the whole video, whichever
        is less.
        """
        tile = self.tile_sample_min_size // self.config.scale_factor_spatial
        if not self.use_tiling or max(z.shape[-2:]) <= tile:
            yield from self._decoded(z)
        elif self._state_is_less(z):
            stream = DecodeStream()
            for part in z.split(self.chunk_latent_frames, dim=2):
                yield self.decode_next(part, stream)
        else:
            yield from self.decode(z).sample.split(WHOLE_FRAMES, dim=2)

    def _state_is_less(self, z: Tensor) -> bool:
        """Tell whether what is kept between two pieces is less than the video of latents `z`."""
        cache = FeatureCache()
        video = self.decoder(z[:1, :, :1, :1, :1], cache=cache)  # both grow with the area alone
        kept = sum(past.numel() for past in cache.past.values())
        return kept < video.numel() * self._first_frame(z.shape[2])

    @apply_forward_hook
    @torch.no_grad()
    def decode_next(self, z: Tensor, stream: DecodeStream) -> Tensor:
        """The frames of the next latents of a video that is decoded piece by piece.

        All pieces together give what `decode` gives of the whole, up to float rounding; the same
        pieces always give the same bits.

        Args:
            stream: a new one for each video; it keeps what the next piece needs of this one.
        """
        caches = stream.in_turn()

        def run(part: Tensor) -> Tensor:
            cache, frames = next(caches), []
            for chunk in part.split(self.chunk_latent_frames, dim=2):
                frames.append(self.decoder(chunk, cache=cache))
                cache.started = True
            return torch.cat(frames, dim=2) if len(frames) > 1 else frames[0]

        return self._by_part(run, z, self.decoder.reach, self.config.scale_factor_spatial)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """The reconstruction of `sample` from random latents of it, or from their mode."""
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
        count = 0
        total = inward.weight.new_zeros(inward.in_features, dtype=torch.float64)
        square = torch.zeros_like(torch.outer(total, total))
        for batch in videos.split(16):
            patches = fold_patches(batch.to(inward.weight), self.encoder.whole_patch, first=True)
            patches = rearrange(patches, "b t h w p -> (b t h w) p").double()
            count += len(patches)
            total += patches.sum(dim=0)
            square += patches.T @ patches
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

    def _by_part(self, run: Callable[[Tensor], Tensor], x: Tensor, reach: int, zoom: int) -> Tensor:
        """Return `run(x)`, computed by videos and tiles where slicing and tiling are on."""
        if self.use_slicing and len(x) > 1:
            return torch.cat([self._by_part(run, one, reach, zoom) for one in x.split(1)])
        tile = self.tile_sample_min_size // self.config.scale_factor_spatial
        if not self.use_tiling or max(x.shape[-2:]) <= tile * max(1, -zoom):
            return run(x)
        # only convolutions and per-position norms have a finite reach
        exact = self.config.norm == "rms" and not self.config.mid_attention
        halo = reach if exact else max(1, tile // 4)
        from t2v.models.tiling import run_tiled  # few videos are tiled

        return run_tiled(run, x, tile, halo, blend=not exact, zoom=zoom)

    def _encode(self, x: Tensor) -> Tensor:
        moments = []
        for start, stop, cache in self._chunks(
            1 + (x.shape[2] - 1) // self.config.scale_factor_temporal
        ):
            span = slice(self._first_frame(start), self._first_frame(stop))
            moments.append(self.encoder(x[:, :, span], cache=cache))
        return torch.cat(moments, dim=2) if len(moments) > 1 else moments[0]

    def _decode(self, z: Tensor) -> Tensor:
        return joined(self._decoded(z), self._first_frame(z.shape[2]))

    def _decoded(self, z: Tensor) -> Iterator[Tensor]:
        for start, stop, cache in self._chunks(z.shape[2]):
            yield self.decoder(z[:, :, start:stop], cache=cache)

    def _first_frame(self, latent_frame: int) -> int:
        return max(0, 1 + (latent_frame - 1) * self.config.scale_factor_temporal)

    def _chunks(self, frames: int) -> Iterator[tuple[int, int, FeatureCache | None]]:
        """Yield the spans of latent frames that are computed in turn, and their cache."""
        if torch.is_grad_enabled() or frames <= self.chunk_latent_frames:
            yield 0, frames, None
            return
        cache = FeatureCache()
        for start in range(0, frames, self.chunk_latent_frames):
            yield start, min(start + self.chunk_latent_frames, frames), cache
            cache.started = True

    def check_video(self, x: Tensor) -> None:
        """Raise `UserError` where `encode` cannot take `x`, naming the nearest sizes."""
        if x.ndim != 5 or x.shape[1] != self.config.in_channels:
            raise UserError(
                f"A video of shape {tuple(x.shape)} does not fit this VAE, which encodes "
                f"(batch, {self.config.in_channels}, frames, height, width)."
            )
        time, space = self.config.scale_factor_temporal, self.config.scale_factor_spatial
        frames, height, width = x.shape[2:]
        if (frames - 1) % time:
            below = max(frames - 1, 0) // time * time + 1
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
