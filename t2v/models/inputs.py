"""Checks of a call to the pipeline, before any time is spent on it."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from t2v.errors import UserError
from t2v.models.finite import is_finite
from t2v.models.latents import latent_channels

logger = logging.getLogger(__name__)

LIKE = 0.75, 1.25  # times the trained area: the first model was as good at 1.25, not at 1.5
SHAPE_LIKE = 0.8, 1.25  # height / width, over the trained one


def count_frames(num_frames: float | None, duration: float | None, fps: float, saved: int) -> int:
    """The number of frames to make: `num_frames`, or `duration` seconds at `fps`, rounded half up
    and at least one; `saved` when neither is given.

    Raises:
        UserError: both are given, or one that is not positive or not whole.
    """
    if num_frames is not None and duration is not None:
        raise UserError(f"num_frames={num_frames} and duration={duration}: give one of them.")
    for name, value in (("num_frames", num_frames), ("duration", duration), ("fps", fps)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{name}={value}: give more than 0.")
    if duration is not None:
        return max(1, math.floor(duration * fps + 0.5))
    frames = saved if num_frames is None else num_frames
    if frames is None or frames != int(frames):
        raise UserError(f"num_frames={frames}: give a whole number.")
    return int(frames)


def latent_shape(
    transformer: ModelMixin, vae: ModelMixin, batch: int, num_frames: int, height: int, width: int
) -> tuple[int, int, int, int, int]:
    """The shape `b c t h w` of the latents of a video; `t` is padded up to what the VAE's `4k+1`
    frames and the transformer's patches can hold.

    Raises:
        UserError: a height or width that is not a multiple of the patches; names the nearest ones.
    """
    patch_t, *patch = transformer.config.patch_size
    space, time = vae.config.scale_factor_spatial, vae.config.scale_factor_temporal
    for name, size, step in (("height", height, patch[0]), ("width", width, patch[1])):
        below = size // (space * step) * space * step
        if size != below or size < 1:
            above = max(below, 0) + space * step
            nearest = f"{below} or {above}" if below > 0 else f"{above}"
            raise UserError(
                f"{name}={size}: this model works in multiples of {space * step}. "
                f"Nearest: {nearest}."
            )
    frames = -(-(num_frames - 1) // time) + 1
    frames = -(-frames // patch_t) * patch_t
    return batch, latent_channels(vae), frames, height // space, width // space


def check_prompts(**given: tuple[Any, Any]) -> None:
    """Refuse prompts that are not text, and prompts given beside their own embeddings.

    Args:
        given: the texts and the embeddings of each argument, by its name.
    """
    for name, (text, embeds) in given.items():
        if text is not None and embeds is not None:
            raise UserError(f"{name} and {name}_embeds are both given: give one of them.")
        texts = text if isinstance(text, list) else [text]
        if text is not None and not (texts and all(isinstance(each, str) for each in texts)):
            raise UserError(f"{name}={text!r}: give a text, or a list of at least one.")
        if isinstance(embeds, Tensor) and not is_finite(embeds):
            raise UserError(f"NaN or inf in {name}_embeds. Encode the prompt again.")


def check_latents(latents: Tensor, shape: tuple[int, ...]) -> None:
    """Raise `UserError` for given latents of another shape, or with NaN or infinite values."""
    if latents.shape != shape:
        raise UserError(
            f"latents of shape {tuple(latents.shape)}: these sizes, frames and prompts need "
            f"{shape} (samples, channels, frames, height, width)."
        )
    if not is_finite(latents):
        raise UserError(
            "NaN or inf in the latents, so no video can be made of them. Start again from a prompt."
        )


def warn_outside(
    saved: Mapping[str, Any], warned: set[str], *, height: int, width: int, num_frames: int
) -> None:
    """Warn of a size or length that a model was not trained at, once for each.

    Fewer frames and other sizes of about the same area pass; of about the same shape too, where
    the shapes are saved.

    Args:
        saved: the pipeline's `trained`, a list of (frames, height, width); or without it its own
            `height`, `width` and `num_frames`.
        warned: the warnings so far; a command makes many videos of one size.
    """
    trained = saved.get("trained")
    sizes = trained or [(saved["num_frames"], saved["height"], saved["width"])]
    for frames, *size in sizes:
        area = height * width / math.prod(size)
        shape = height / width / (size[0] / size[1]) if trained else 1.0
        is_like = LIKE[0] <= area <= LIKE[1] and SHAPE_LIKE[0] <= shape <= SHAPE_LIKE[1]
        if is_like and num_frames <= frames:
            return
    known = ", ".join(f"{frames} frames of {h}x{w}" for frames, h, w in sizes)
    text = (
        f"{num_frames} frames of {height}x{width} are outside the sizes this model was trained at "
        f"({known}): expect wrong motion in longer videos, wrong and duplicated things in other "
        "sizes"
    )
    if text not in warned:
        warned.add(text)
        logger.warning("%s", text)
