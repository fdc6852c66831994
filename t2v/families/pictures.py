"""Pictures and clips that a pipeline of another package is given, by the names of its call."""

from __future__ import annotations

from collections.abc import Collection
from math import ceil
from typing import Any

from diffusers import DiffusionPipeline
from einops import rearrange
from PIL import Image

from t2v.errors import UserError
from t2v.pipelines.visuals import Frames, VisualInputs, frames_tensor, spoken

VISUAL = ("image", "last_image", "video", "mask", "strength")
REFERENCES, IP_ADAPTER = "reference_images", "ip_adapter_image"
OPTIONS = {name: f"--{name.replace('_', '-')} FILE" for name in VISUAL[:4]}
# by the names of classes: calls have defaults that they then refuse
NEEDS = {"ImageToVideo": ("image",), "I2V": ("image",), "VideoToVideo": ("video",)}
GRAY = (127, 127, 127)  # of a frame that is to be made, as VACE's authors have it


def takes(pipeline: DiffusionPipeline, names: Collection[str]) -> frozenset[str]:
    """The settings of what a call with arguments of these names is given to see."""
    found = frozenset(VISUAL) & frozenset(names)
    return found | {REFERENCES} if _references(pipeline, names) else found


def _references(pipeline: DiffusionPipeline, names: Collection[str]) -> str | None:
    """The argument that takes reference pictures: VACE's own, or that of a loaded IP-Adapter."""
    if REFERENCES in names:
        return REFERENCES
    unet = getattr(getattr(pipeline, "unet", None), "config", {})
    has_adapter = unet.get("encoder_hid_dim_type") == "ip_image_proj"
    return IP_ADAPTER if has_adapter and IP_ADAPTER in names else None


def references(
    pipeline: DiffusionPipeline, visuals: VisualInputs, names: Collection[str]
) -> dict[str, Any]:
    """The reference pictures of a video as the call takes them."""
    argument = _references(pipeline, names)
    if argument is None or not visuals.reference_images:
        return {}
    pictures: Any = [_images(each, REFERENCES)[0] for each in visuals.reference_images]
    # the outer list is of adapters, the inner one of the pictures of one
    return {argument: [pictures] if argument == IP_ADAPTER else pictures}


def read(prompt: str, visuals: VisualInputs | None) -> str:
    """The prompt without its signs for reference pictures, see `spoken`."""
    return spoken(prompt, 0 if visuals is None else len(visuals.reference_images))


def needs(pipeline: DiffusionPipeline) -> tuple[str, ...]:
    """The names of what a pipeline cannot do without."""
    name = type(pipeline).__name__
    named = next((names for part, names in NEEDS.items() if part in name), ())
    config = getattr(getattr(pipeline, "transformer", None), "config", {})
    # as Wan's FLF2V: its positions are those of the CLIP features of two pictures
    return (*named, "last_image") if config.get("pos_embed_seq_len") else named


def refuse_missing(
    pipeline: DiffusionPipeline, visuals: VisualInputs | None, strength: float | None
) -> None:
    """Raise `UserError` where a pipeline cannot do without what is not given."""
    name = type(pipeline).__name__
    if missing := [each for each in needs(pipeline) if getattr(visuals, each, None) is None]:
        alone = "makes nothing of a prompt alone: give"
        lacks = "also needs" if missing[0] == "last_image" else alone
        raise UserError(f"{name} {lacks} {missing[0]}, such as {OPTIONS[missing[0]]}.")
    if "VideoToWorld" in name and not (
        {"image", "video"} & set(visuals.names() if visuals else ())
    ):
        raise UserError(
            f"{name} makes nothing of a prompt alone: give image or video, such as --image FILE."
        )


def refuse_start(visuals: VisualInputs | None, start: object) -> None:
    """Raise `UserError` where a video of reference pictures would go on from kept latents."""
    if start is not None and visuals is not None and visuals.reference_images:
        raise UserError(
            "reference_images: this model denoises them before the video, and kept latents are of "
            "the video alone. Make it again by its recipe."
        )


def check_steps(steps: int, strength: float) -> None:
    """Raise `UserError` where an edit of that strength has no step to make."""
    if int(steps * strength) < 1:  # as diffusers counts
        raise UserError(
            f"strength={strength:g} num_inference_steps={steps}: an edit takes that share of "
            f"the steps, and no whole one is left. Give num_inference_steps="
            f"{ceil(1 / strength)} or more, or strength=1."
        )


def arguments(visuals: VisualInputs, taken: Collection[str], count: int | None) -> dict[str, Any]:
    """The pictures and clips of a video as pipelines take them: images of Pillow.

    A clip that is edited, or partly made anew, is as long as the video: the last frame stands for
    those behind it. One that the video goes on from is given as it is; where the call takes a mask
    the rest of it is gray, and masked as what is to be made.

    Args:
        taken: the names of what the call takes.
        count: frames that the call makes.
    """
    images = {
        name: _images(getattr(visuals, name), name)
        for name in VISUAL
        if getattr(visuals, name, None) is not None
    }
    found: dict[str, Any] = {
        name: images.pop(name)[0] for name in ("image", "last_image") if name in images
    }
    video, mask = images.get("video"), images.get("mask")
    if video is None:
        return found
    rest = max(0, (count or 0) - len(video))
    if mask is not None:
        mask = mask * len(video) if len(mask) == 1 else mask
        return found | {"video": video + video[-1:] * rest, "mask": mask + mask[-1:] * rest}
    if "mask" in taken:
        size = video[0].size
        known, made = Image.new("L", size, 0), Image.new("L", size, 255)
        return found | {
            "video": video + [Image.new("RGB", size, GRAY)] * rest,
            "mask": [known] * len(video) + [made] * rest,
        }
    return found | {"video": video + video[-1:] * (rest if "strength" in taken else 0)}


def _images(frames: Frames, name: str) -> list[Image.Image]:
    levels = (frames_tensor(frames, name) * 255).round().byte()
    return [Image.fromarray(rearrange(frame, "c h w -> h w c").numpy()) for frame in levels]
