"""`AutoencoderKLWan`: Wan's VAE, of 2.1 and 2.2, computed as fast as ours."""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from typing import Any, Literal

import diffusers
import torch
from diffusers.models.autoencoders import autoencoder_kl_wan as wan
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from t2v.models.causal import WHOLE_FRAMES, FeatureCache, joined
from t2v.models.tiling import Tile, cut, run_narrowing
from t2v.models.wan_layers import margins, swap_layers

Part = Literal["all", "coarse", "fine"]  # of a coder: attention over a whole frame is in the coarse

TIME = 4  # frames a latent: diffusers streams by as many, whatever the config says
POSITIONS = 1024  # latents computed at a time, beyond which activations leave a CPU's caches


class Encoder(wan.WanEncoder3d):
    """Video `b c t h w` to the moments of its latents; its fine part comes first."""

    def forward(
        self,
        x: Tensor,
        cache: FeatureCache | None = None,
        part: Part = "all",
        tile: Tile | None = None,
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if part != "coarse":
            for step, layer in enumerate((self.conv_in, *self.down_blocks)):
                x = layer(cut(x, tile, step), cache=cache)
            x = cut(x, tile, 1 + len(self.down_blocks))
        if part == "fine":
            return x
        x = self.mid_block(x, cache=cache)
        return self.conv_out(self.norm_out(x, active=True, room=2), cache=cache, room=2)

    def margins(self) -> list[int]:
        """The margins that a tile of the fine part has at each step, in latents."""
        return margins((self.conv_in, *self.down_blocks), scale=1)


class Decoder(wan.WanDecoder3d):
    """Latents `b z t h w` to video; its fine part comes last."""

    def forward(
        self,
        x: Tensor,
        cache: FeatureCache | None = None,
        part: Part = "all",
        tile: Tile | None = None,
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if part != "fine":
            x = self.mid_block(self.conv_in(x, cache=cache), cache=cache)
        if part == "coarse":
            return x
        for step, block in enumerate(self.up_blocks):
            x = block(cut(x, tile, step), cache=cache)
        x = self.norm_out(cut(x, tile, len(self.up_blocks)), active=True, room=2)
        return cut(self.conv_out(x, cache=cache, room=2), tile, 1 + len(self.up_blocks))

    def margins(self) -> list[int]:
        """The margins that a tile of the fine part has at each step, in latents."""
        return margins((*self.up_blocks, self.conv_out), scale=2 ** (len(self.up_blocks) - 1))


class AutoencoderKLWan(diffusers.AutoencoderKLWan):
    """diffusers' class of this name, but faster; the same up to float rounding.

    Without gradients, time passes in chunks; with them the whole video runs at once. Tiles give
    what the whole gives: only the fine part of a network is tiled, each step of it with the margin
    that the steps behind it reach. `tile_sample_stride_*` is their size without margins.
    """

    __module__ = diffusers.AutoencoderKLWan.__module__  # folders name the class that all can load
    _skip_keys = ("cache",)

    @wraps(diffusers.AutoencoderKLWan.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._swap()

    @classmethod
    def of(cls, vae: diffusers.AutoencoderKLWan) -> AutoencoderKLWan:
        """Give diffusers' VAE this class, unless its layers have hooks already; others stay."""
        hooked = any("forward" in vars(layer) for layer in vae.modules())  # of the old class
        if type(vae) is diffusers.AutoencoderKLWan and not hooked:
            vae.__class__ = cls
            vae._swap()
        return vae

    def _swap(self) -> None:
        swap_layers(self)
        self.encoder.__class__, self.decoder.__class__ = Encoder, Decoder

    @apply_forward_hook
    def decode_pieces(self, z: Tensor) -> Iterator[Tensor]:
        """Yield what `decode` gives of latents `z`, piece by piece; by tiles, once all is there."""
        yield from self._decoded(z, WHOLE_FRAMES)

    def _decoded(self, z: Tensor, at_once: int | None = None) -> Iterator[Tensor]:
        z = self.post_quant_conv(z)
        lengths = pieces(z.shape[2], *z.shape[-2:])
        if self._is_tiled(*z.shape[-2:]):
            coarse = torch.cat([*_stream(self.decoder, z, lengths, "coarse")], dim=2)
            whole = self._by_tile(self.decoder, coarse, lengths, *z.shape[-2:])
            parts = iter(whole.split(at_once or whole.shape[2], dim=2))
        else:
            parts = _stream(self.decoder, z, lengths)
        for piece in parts:
            if self.config.patch_size is not None:
                piece = wan.unpatchify(piece, patch_size=self.config.patch_size)
            yield piece.clamp(-1, 1)

    def _decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        frames = 1 + (z.shape[2] - 1) * 2 ** sum(self.temperal_upsample)
        video = joined(self._decoded(z), frames)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def _encode(self, x: Tensor) -> Tensor:
        count = 1 + (x.shape[2] - 1) // TIME
        x = x[:, :, : 1 + TIME * (count - 1)]  # frames left over are not seen, as in diffusers
        if self.config.patch_size is not None:
            x = wan.patchify(x, patch_size=self.config.patch_size)
        side = 2 ** (len(self.encoder.dim_mult) - 1)
        rows, columns = x.shape[-2] // side, x.shape[-1] // side
        latents = pieces(count, rows, columns)
        lengths = [TIME * each for each in latents]
        lengths[0] -= TIME - 1
        if self._is_tiled(rows, columns):
            fine = self._by_tile(self.encoder, x, lengths, rows, columns)
            moments = _stream(self.encoder, fine, latents, "coarse")
        else:
            moments = _stream(self.encoder, x, lengths)
        return self.quant_conv(joined(moments, sum(latents)))

    def _is_tiled(self, rows: int, columns: int) -> bool:
        cell = self.spatial_compression_ratio
        return self.use_tiling and (
            rows > self.tile_sample_min_height // cell
            or columns > self.tile_sample_min_width // cell
        )

    def _by_tile(
        self, coder: Encoder | Decoder, x: Tensor, lengths: list[int], rows: int, columns: int
    ) -> Tensor:
        """The fine part of `coder`, of `rows` x `columns` latents, tile by tile."""
        cell = self.spatial_compression_ratio
        sides = self.tile_sample_stride_height // cell, self.tile_sample_stride_width // cell
        return run_narrowing(
            lambda part, tile: torch.cat([*_stream(coder, part, lengths, "fine", tile)], dim=2),
            x,
            (rows, columns),
            sides,
            coder.margins(),
        )


def pieces(count: int, rows: int, columns: int) -> list[int]:
    """The numbers of latent frames, of `count` with `rows` x `columns` cells, that are computed in
    turn; with gradients, all at once."""
    if torch.is_grad_enabled():
        return [count]
    some = max(1, POSITIONS // (rows * columns))
    return [min(some, count - start) for start in range(0, count, some)]


def _stream(
    coder: Encoder | Decoder,
    x: Tensor,
    lengths: list[int],
    part: Part = "all",
    tile: Tile | None = None,
) -> Iterator[Tensor]:
    """Yield what `coder` gives of `x`, which is handed to it in pieces of these lengths."""
    cache = FeatureCache() if len(lengths) > 1 else None
    for piece in x.split(lengths, dim=2):
        yield coder(piece, cache=cache, part=part, tile=tile)
        if cache is not None:
            cache.started = True
