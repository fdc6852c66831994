"""Known frames as channels beside the noisy latents, and pictures through an image encoder.

The arithmetic of Wan 2.1 I2V and FLF2V and of Wan 2.2 I2V-A14B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import ModelMixin
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor

from t2v.errors import UserError
from t2v.models.device import ready
from t2v.models.latents import normalize_latents
from t2v.pipelines.generator import to_uint8


def encode_beside(
    pipeline: Any,
    frames: Tensor,
    known: Tensor,
    length: int,
    embed: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The conditions of a video with known frames, for a model with conditioning="channels".

    Args:
        pipeline: its VAE and, where the transformer reads pictures, its image encoder.
        frames: `t c h w` in [0, 1].
        known: how surely each frame is given, `t`.
        length: latent frames of the video.
        embed: in the place of `embed_pictures`, for an encoder that is released.

    Returns:
        `channels`, `1 c t h w`, and `image`, `1 m d`, of `Conditions`; the latter may be None.

    Raises:
        UserError: other frames are given than the model was trained with.
    """
    config = pipeline.transformer.config
    two = config.get("pos_embed_seq_len") is not None
    check_known(known, two=two, one=config.image_dim is not None and not two)
    channels = frames_as_channels(pipeline.vae, frames, known, length)
    if config.image_dim is None:
        return channels, None
    if pipeline.image_encoder is None or pipeline.image_processor is None:
        raise UserError(
            "This model reads its picture through an image encoder, and the pipeline has none. "
            "Load the whole folder, with image_encoder and image_processor."
        )
    pictures = frames[[0, -1]] if two else frames[:1]
    if embed is None:
        image = embed_pictures(pipeline.image_processor, pipeline.image_encoder, pictures)
    else:
        image = embed(pictures)
    # an encoder in fp32 beside a transformer in bf16 is what Wan's authors advise
    return channels, image.to(pipeline.transformer.dtype)


def check_known(known: Tensor, *, two: bool, one: bool) -> None:
    """Raise `UserError` where a model with conditioning="channels" cannot take the known frames.

    Args:
        known: how surely each frame is given, `t`.
        two, one: does the model read exactly two pictures, or one, through its image encoder?
    """
    if not known[0]:
        raise UserError(
            "The first frame is not given, and this model makes videos that begin with a picture: "
            f"give image{' and last_image' if two else ''}."
        )
    if two and not known[-1]:
        raise UserError(
            "One picture is given, and this model makes videos between two: give last_image too."
        )
    if one and known[-1]:
        raise UserError(
            "The last frame is given too, and this model takes one picture, the first frame: leave "
            "last_image out."
        )
    if not ((known == 0) | (known == 1)).all():
        raise UserError(
            "A frame is given with strength below 1, and this model keeps its pictures exactly: "
            "give strength=1."
        )


def channel_mask(known: Tensor, temporal: int) -> Tensor:
    """The mask of known frames with a channel for each frame of a latent one, `s t`.

    Args:
        known: 1 for each frame that is given, `temporal * k + 1` of them. The first one, for which
            a latent frame stands alone, is repeated.
    """
    first = known[:1].expand(temporal - 1)
    return rearrange(torch.cat([first, known]), "(t s) -> s t", s=temporal)


def frames_as_channels(vae: ModelMixin, frames: Tensor, known: Tensor, length: int) -> Tensor:
    """The mask and the latents of a clip with only its known frames, `1 c t h w` (Wan 2.1 I2V).

    Args:
        frames: `t c h w` in [0, 1]; the ones that are not known count as grey.
        known: 1 for each frame that is given, `t`.
        length: latent frames; frames that are missing for them are not known.
    """
    temporal = vae.config.scale_factor_temporal
    missing = (length - 1) * temporal + 1 - len(frames)
    known = torch.cat([known, known.new_zeros(missing)])
    frames = torch.cat([frames, frames.new_zeros(missing, *frames.shape[1:])])
    video = (2 * frames - 1) * rearrange(known, "t -> t 1 1 1")
    video = rearrange(video, "t c h w -> 1 c t h w").to(ready(vae), vae.dtype)
    latents = normalize_latents(vae.encode(video).latent_dist.mode().float(), vae.config)
    h, w = latents.shape[3:]
    mask = repeat(channel_mask(known, temporal), "s t -> 1 s t h w", h=h, w=w)
    return torch.cat([mask.to(latents), latents], dim=1)


def embed_pictures(processor: Any, encoder: Any, pictures: Tensor) -> Tensor:
    """The hidden states before the last layer of an image encoder, `1 (k m) d`, of `k` pictures.

    Args:
        pictures: `k c h w` in [0, 1].
    """
    images = [Image.fromarray(each) for each in to_uint8(_channels_last(pictures))]
    pixels = processor(images=images, return_tensors="pt").pixel_values
    device = ready(encoder)
    hidden = encoder(pixels.to(device, encoder.dtype), output_hidden_states=True).hidden_states[-2]
    return rearrange(hidden, "k m d -> 1 (k m) d")


def _channels_last(pictures: Tensor) -> Any:
    return rearrange(pictures, "k c h w -> k h w c").cpu().numpy()
