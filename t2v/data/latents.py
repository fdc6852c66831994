"""Encoders of clips: the tensors to keep of their frames, latents or the frames themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from einops import rearrange
from torch import Tensor

from t2v.data.buckets import Bucket
from t2v.data.cache import weights_digest
from t2v.data.world_shards import pixels
from t2v.io.files import digest
from t2v.models.device import ready
from t2v.models.vae import AutoencoderKLT2V

VAE: TypeAlias = AutoencoderKLT2V | AutoencoderKLWan


@dataclass(frozen=True)
class ClipEncoder:
    """A function from the frames of clips to the tensors that are kept, `b c t h w`.

    Args:
        name: a hash of all that decides the result beside the frames.
        run: frames `b t h w c` uint8 to the tensors.
        temporal: frames that a step of their time axis stands for; the first stands for one.
        spatial: pixels that a step of their height and width stands for.
        stride: clips have a multiple of it plus one frames.
        multiple: sides are whole multiples of it.
    """

    name: str
    run: Callable[[np.ndarray], Tensor]
    temporal: int
    spatial: int
    stride: int
    multiple: int

    def bucket(self, shape: tuple[int, ...]) -> Bucket:
        """The bucket whose clips give tensors of `shape`."""
        _, t, h, w = shape
        return Bucket((t - 1) * self.temporal + 1, h * self.spatial, w * self.spatial)


def latents_encoder(vae: VAE, precision: str) -> ClipEncoder:
    """The encoder to posterior means in float16, not normalised, on the CPU."""
    unsaid = {"latents_mean", "latents_std", "multiple"}
    if vae.config.get("quantizer", "none") == "none":  # as in folders of before there were any
        unsaid |= {"quantizer", "codebook_size"}
    settings = {
        name: value
        for name, value in vae.config.items()
        if not name.startswith("_") and name not in unsaid
    }

    @torch.no_grad()
    def run(frames: np.ndarray) -> Tensor:
        device = ready(vae)
        video = pixels(torch.from_numpy(frames).to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            posterior = vae.encode(video).latent_dist
        return posterior.mean.half().cpu().contiguous()  # the network leaves channels last

    name = digest("latents", weights_digest(vae), sorted(settings.items()), precision)
    temporal, spatial = vae.config.scale_factor_temporal, vae.config.scale_factor_spatial
    return ClipEncoder(name, run, temporal, spatial, temporal, side_of(vae))


def side_of(vae: VAE) -> int:
    """Pixels that the sides of clips are multiples of: a token of two latents, unless told."""
    return int(vae.config.get("multiple") or 2 * vae.config.scale_factor_spatial)


def frames_encoder(vae: VAE) -> ClipEncoder:
    """The encoder that keeps frames as they are, in the shapes that `vae` takes."""
    return plain_frames(vae.config.scale_factor_temporal, side_of(vae))


def plain_frames(stride: int, multiple: int) -> ClipEncoder:
    """The encoder that keeps `stride`k+1 frames as they are, with sides of whole `multiple`s."""

    def run(frames: np.ndarray) -> Tensor:
        return rearrange(torch.from_numpy(frames), "b t h w c -> b c t h w").contiguous()

    return ClipEncoder("frames", run, 1, 1, stride, multiple)


def latents_name(vae: VAE, manifest: Path, precision: str) -> str:
    """Name the latents of rendered clips by a hash of weights, manifest and precision.

    It is the name of the file beside the manifest in which earlier versions kept all of them.
    """
    hashed = hashlib.sha256(precision.encode())
    hashed.update(manifest.read_bytes())
    for name, tensor in sorted(vae.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(tensor.cpu().contiguous().numpy().tobytes())
    return f"latents-{hashed.hexdigest()[:16]}.safetensors"
