"""The record of what a family of video models has of its own, read by `FamilyGenerator`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from t2v.pipelines.generator import Request

# what diffusers' pipelines call the pixels and frames of a latent
SPACE = (
    *("vae_scale_factor_spatial", "vae_spatial_compression_ratio"),
    *("vae_spatial_scale_factor", "vae_scale_factor"),
)
TIME = (
    *("vae_scale_factor_temporal", "vae_temporal_compression_ratio"),
    "vae_temporal_scale_factor",
)


def temporal(pipeline: DiffusionPipeline) -> int:
    """Frames that a latent of the pipeline's VAE stands for; 1 where it does not say."""
    return next((int(getattr(pipeline, name)) for name in TIME if hasattr(pipeline, name)), 1)


def spatial(pipeline: DiffusionPipeline) -> int:
    """Pixels, each way, that a latent of the pipeline's VAE stands for; 1 where it does not say."""
    return next((int(getattr(pipeline, name)) for name in SPACE if hasattr(pipeline, name)), 1)


def patches(pipeline: DiffusionPipeline) -> int:
    """Pixels, each way, of a token of the transformer; 16 at least, which the calls insist on."""
    patch = pipeline.transformer.config.patch_size
    pixels = spatial(pipeline) * int(patch if isinstance(patch, int) else patch[-1])
    return math.lcm(16, pixels)


def channels(pipeline: DiffusionPipeline) -> int:
    """The channels of the VAE's latents."""
    config = pipeline.vae.config
    return int(config.get("z_dim") or config.get("latent_channels"))


def with_pictures(**others: tuple[str, ...]) -> Callable[[str, Mapping[str, Any]], tuple[str, ...]]:
    """The rule `shares` that gives pipelines of text those of pictures and clips."""
    return lambda name, _: others.get(name, ())


def of_one_picture(pipeline: DiffusionPipeline) -> frozenset[str]:
    """The last picture, for which a time a token, or a CLIP of one picture, leaves Wan no room."""
    config = pipeline.transformer.config
    is_full = config.get("image_dim") is not None and config.get("pos_embed_seq_len") is None
    is_full |= bool(pipeline.config.get("expand_timesteps"))
    return frozenset({"last_image"} if is_full else ())


def by_mean_and_spread(pipeline: DiffusionPipeline, latents: Tensor) -> Tensor:
    """Latents with the mean and the spread that each channel has."""
    config = pipeline.vae.config
    mean, spread = (
        torch.tensor(values, device=latents.device, dtype=latents.dtype).view(1, -1, 1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return latents * spread + mean


def by_factor(pipeline: DiffusionPipeline, latents: Tensor) -> Tensor:
    """Latents without the factor that scales all channels alike."""
    return latents / pipeline.vae.config.scaling_factor


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of video models as diffusers has it.

    Args:
        name: as its authors write it.
        pipelines: names of its pipeline classes in diffusers.
        fps: frames per second that its authors write its videos with; a function where it
            depends on the pipeline.
        source: where that is said.
        multiple: pixels that height and width are multiples of.
        stride: frames that a latent stands for; lengths are `stride * k + 1`.
        usual: what its authors make where the call leaves height, width or length open.
        shortest: the fewest frames that its call makes.
        rate: the argument of the call that is told the frames per second.
        names: settings that its call names otherwise, and how.
        guider: the component that holds `guidance_scale`, where the call does not take it.
        told: arguments that every call is given.
        unpack: the loop's latents as `b c t h w`, those alone that the VAE decodes.
        denormalize: the latents that the VAE decodes, of those `b c t h w` that a call gives;
            None: the call decodes itself.
        decode: further arguments of the VAE's `decode`, given the latents.
        needs: packages that its networks import, which diffusers does not bring along.
        refuses: names of its call that stand for something else there, or that this pipeline cannot
            use.
        shares: other pipelines that the weights of a folder are for, by the name of its class and
            its index.
        resumes: a call advances by the steps of its own scheduler alone.
        why: what the family lacks, and the reason.
    """

    name: str
    pipelines: tuple[str, ...]
    fps: float | Callable[[DiffusionPipeline], float]
    source: str
    multiple: Callable[[DiffusionPipeline], int]
    stride: Callable[[DiffusionPipeline], int] = temporal
    usual: Callable[[DiffusionPipeline], dict[str, int]] = lambda _: {}
    shortest: int = 1
    rate: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    guider: str | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    unpack: Callable[[DiffusionPipeline, Tensor, Request], Tensor] = lambda _, latents, __: latents
    denormalize: Callable[[DiffusionPipeline, Tensor], Tensor] | None = None
    decode: Callable[[DiffusionPipeline, Tensor], dict[str, Any]] = lambda _, __: {}
    needs: tuple[str, ...] = ()
    refuses: Callable[[DiffusionPipeline], frozenset[str]] = lambda _: frozenset()
    shares: Callable[[str, Mapping[str, Any]], tuple[str, ...]] = lambda _, __: ()
    resumes: bool = True
    why: str = ""

    def frames_per_second(self, pipeline: DiffusionPipeline) -> float:
        """The rate that the family's videos are written with."""
        return float(self.fps(pipeline) if callable(self.fps) else self.fps)

    def frames(self, pipeline: DiffusionPipeline, wanted: int) -> int:
        """The least length of at least `wanted` frames that the VAE holds and the call makes."""
        stride, wanted = self.stride(pipeline), max(wanted, self.shortest)
        return -(-(wanted - 1) // stride) * stride + 1

    def latent_shape(self, pipeline: DiffusionPipeline, request: Request) -> tuple[int, ...]:
        """The shape `1 c t h w` of the latents of one video."""
        assert request.num_frames and request.height and request.width
        length = self.frames(pipeline, request.num_frames)
        scale, frames = spatial(pipeline), (length - 1) // self.stride(pipeline) + 1
        return 1, channels(pipeline), frames, request.height // scale, request.width // scale
