"""Frames prepared as a model's own image processor prepares them, with gradients on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoImageProcessor

Preprocessing = Callable[[Tensor], Tensor]


def preprocessing(name: str) -> tuple[Preprocessing, str]:
    """Return the preparation of frames `n c h w` in [-1, 1] for a model, and its processor's class.

    Resizing, filter, crop, mean and standard deviation are those of `preprocessor_config.json`.
    """
    processor = AutoImageProcessor.from_pretrained(name)

    def prepare(frames: Tensor) -> Tensor:
        levels = ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        images = list(rearrange(levels, "n c h w -> n h w c").cpu().numpy())
        prepared = processor(images, return_tensors="pt", input_data_format="channels_last")
        pixels = prepared["pixel_values"]
        return pixels.flatten(0, -4).to(frames.device)  # some take a list of frames for a video

    return prepare, f"prepared by {type(processor).__name__}"


def differentiable_preprocessing(name: str) -> tuple[Preprocessing, str]:
    """Return what `preprocessing` does without its rounding, so that gradients pass.

    Raises:
        ValueError: the processor does more than resize, crop from the middle and normalise.
    """
    processor = AutoImageProcessor.from_pretrained(name)
    exact, by = preprocessing(name)
    filters = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
    config = processor.to_dict()
    size, crop = (
        {side: length for side, length in (config.get(each) or {}).items() if length}
        for each in ("size", "crop_size")
    )

    def prepare(frames: Tensor) -> Tensor:
        pixels = (frames + 1) / 2
        if config.get("do_resize"):
            sides = _sides(pixels.shape[2:], size)
            mode = filters[config["resample"]]
            pixels = F.interpolate(pixels, sides, mode=mode, antialias=True).clamp(0, 1)
        if config.get("do_center_crop"):
            top, left = (
                (side - crop[each]) // 2
                for side, each in zip(pixels.shape[2:], ("height", "width"), strict=True)
            )
            pixels = pixels[..., top : top + crop["height"], left : left + crop["width"]]
        if config.get("do_normalize"):
            mean, std = (
                rearrange(torch.tensor(values), "c -> c 1 1").to(pixels)
                for values in (config["image_mean"], config["image_std"])
            )
            pixels = (pixels - mean) / std
        return pixels

    coarse = torch.rand(1, 3, 10, 13, generator=torch.Generator().manual_seed(0)) * 2 - 1
    trial = F.interpolate(coarse, (75, 99), mode="bilinear")
    try:
        ours, theirs = prepare(trial), exact(trial)
        same = ours.shape == theirs.shape and (ours - theirs).abs().mean() < 0.03 * theirs.std()
    except (KeyError, AttributeError, RuntimeError):
        same = False
    if not same:
        raise ValueError(
            f"{type(processor).__name__} prepares images in a way that has no known gradient. "
            "Name a ViT, DINOv2 or CLIP."
        )
    return prepare, by


def _sides(given: Sequence[int], size: dict[str, int]) -> list[int]:
    """Height and width that a processor resizes to."""
    if "shortest_edge" not in size:
        return [size["height"], size["width"]]
    return [int(side * size["shortest_edge"] / min(given)) for side in given]


def sample_frames(frames: Tensor, count: int) -> Tensor:
    """Return `count` frames of `n t ...`, evenly spaced from the first to the last."""
    return frames[:, torch.linspace(0, frames.shape[1] - 1, count).round().long()]
