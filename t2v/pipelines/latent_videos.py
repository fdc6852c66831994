"""Latents of videos: the noise a sampling run starts from, and the frames decoded at its end."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from t2v.models.alone import alone
from t2v.models.causal import WHOLE_FRAMES
from t2v.models.device import ready, trim
from t2v.models.finite import refuse_bad
from t2v.models.inputs import check_latents, latent_shape
from t2v.models.latents import denormalize_latents
from t2v.models.schedule import sample_generators
from t2v.models.upscaler import check_scale

Generators = torch.Generator | list[torch.Generator] | None


class LatentVideos:
    """The part of a pipeline that makes latents and decodes them."""

    transformer: Any
    vae: Any
    upscaler: Any
    video_processor: Any
    vae_scale_factor_temporal = property(attrgetter("vae.config.scale_factor_temporal"))
    vae_scale_factor_spatial = property(attrgetter("vae.config.scale_factor_spatial"))

    def prepare_latents(
        self,
        batch_size: int,
        height: int,
        width: int,
        num_frames: int,
        dtype: torch.dtype | None = torch.float32,
        device: torch.device | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Standard normal noise `b c t h w` of the size `latent_shape` says, or `latents`.

        A list of generators is used as it is, a single one as `sample_generators` says.

        Raises:
            UserError: latents of another shape, or with NaN or infinite values.
        """
        shape = latent_shape(self.transformer, self.vae, batch_size, num_frames, height, width)
        if latents is None:
            if not isinstance(generator, list):
                generator = sample_generators(generator, batch_size)
            latents = randn_tensor(shape, generator=generator, dtype=dtype)
        else:
            check_latents(latents, shape)
        return latents.to(device=device, dtype=dtype)

    @alone
    @torch.no_grad()
    def decode_latents(
        self, latents: Tensor, num_frames: int | None = None, upscale: int = 1
    ) -> Tensor:
        """The videos of normalised latents, decoded one at a time.

        Args:
            latents: `b c t h w`, as `output_type="latent"` gives them.
            num_frames: frames to keep; the padding behind them is cropped. None: keep all.
            upscale: times as high and wide, by the pipeline's upscaler; 1 for the plain video.

        Returns:
            `b c t h w` in [-1, 1]; `self.video_processor.postprocess_video` makes frames of it.

        Raises:
            UserError: the latents, or the videos decoded from them, hold NaN or infinite values;
                or the upscaler has another scale.
        """
        videos = []
        for z in latents.split(1):
            pieces = list(self.decode_pieces(z, num_frames, upscale))
            videos.append(torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0])
        return torch.cat(videos) if len(videos) > 1 else videos[0]

    @alone
    @torch.no_grad()
    def decode_pieces(
        self, latents: Tensor, num_frames: int | None = None, upscale: int = 1
    ) -> Iterator[Tensor]:
        """Yield the one video that `decode_latents` gives of such latents, a few frames at a time.

        Raises:
            UserError: see `decode_latents`.
        """
        check_scale(upscale, self.upscaler, "upscale")
        # a pipeline that only decodes may have no transformer
        refuse_bad("transformer", latents, getattr(self.transformer, "dtype", latents.dtype))
        latents = denormalize_latents(latents.to(ready(self.vae)), self.vae.config)
        pieces = pieces_of(self.vae, latents.to(self.vae.dtype), num_frames)
        if upscale == 1:
            yield from pieces
            return
        device, dtype = ready(self.upscaler), self.upscaler.dtype
        small = (piece.clamp(-1, 1).to(device, dtype) for piece in pieces)
        for piece in self.upscaler.enlarged(small):
            refuse_bad("upscaler", piece, dtype)
            trim()
            yield piece

    def _frames(self, latents: Tensor, num_frames: int, output_type: str, upscale: int) -> Any:
        if output_type == "latent":
            return latents
        videos = self.decode_latents(latents, num_frames, upscale)
        return self.video_processor.postprocess_video(videos, output_type=output_type)


def pieces_of(vae: Any, z: Tensor, num_frames: int | None) -> Iterator[Tensor]:
    """Yield the first `num_frames` frames of what a VAE decodes of latents `z`, piece by piece.

    Raises:
        UserError: a piece holds NaN or infinite values.
    """
    left = num_frames
    if hasattr(vae, "decode_pieces"):
        pieces = vae.decode_pieces(z)
    else:
        pieces = vae.decode(z, return_dict=False)[0].split(WHOLE_FRAMES, dim=2)
    for piece in pieces:
        refuse_bad("vae", piece, vae.dtype)
        if left == 0:
            return
        trim()
        yield piece[:, :, :left]
        left = None if left is None else max(0, left - piece.shape[2])
