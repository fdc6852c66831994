"""CogVideoX 1.0 and 1.5, of text and of pictures."""

from __future__ import annotations

from diffusers import DiffusionPipeline
from einops import rearrange
from torch import Tensor

from t2v.families.record import Family, patches, spatial, temporal, with_pictures
from t2v.pipelines.generator import Request


def frames_per_second(pipeline: DiffusionPipeline) -> float:
    """8; 1.5, whose tokens hold two latent frames, is trained at 16."""
    return 16.0 if pipeline.transformer.config.patch_size_t else 8.0


def usual(pipeline: DiffusionPipeline) -> dict[str, int]:
    """The size that the transformer is saved with."""
    saved, stride = pipeline.transformer.config, temporal(pipeline)
    return {
        "height": saved.sample_height * spatial(pipeline),
        "width": saved.sample_width * spatial(pipeline),
        "num_frames": (saved.sample_frames - 1) // stride * stride + 1
        if saved.patch_size_t
        else saved.sample_frames,
    }


def unpack(pipeline: DiffusionPipeline, latents: Tensor, request: Request) -> Tensor:
    """Latents `b t c h w` as `b c t h w`, without those in front that fill a token of 1.5."""
    assert request.num_frames
    wanted = -(-(request.num_frames - 1) // temporal(pipeline)) + 1
    return rearrange(latents[:, latents.shape[1] - wanted :], "b t c h w -> b c t h w")


COGVIDEOX = Family(
    name="CogVideoX",
    pipelines=(
        *("CogVideoXPipeline", "CogVideoXImageToVideoPipeline"),
        "CogVideoXVideoToVideoPipeline",
    ),
    fps=frames_per_second,
    source="the model table of github.com/zai-org/CogVideo",
    multiple=patches,
    usual=usual,
    shares=with_pictures(CogVideoXPipeline=("CogVideoXVideoToVideoPipeline",)),
    unpack=unpack,
    denormalize=lambda pipeline, latents: latents / pipeline.vae_scaling_factor_image,
)
