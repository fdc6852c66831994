"""The output of a pipeline, and frames as bytes."""

from dataclasses import dataclass

import numpy as np
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor


@dataclass
class T2VPipelineOutput(BaseOutput):
    """Videos, in the form that was asked for.

    Args:
        frames: "np" `b t h w c` and "pt" `b t c h w` in [0, 1]; "pil" a list of images a video;
            "latent" the normalised latents `b c t h w`, before padding frames are cropped.
        fps: frames per second to play them at.
    """

    frames: np.ndarray | Tensor | list[list[Image.Image]]
    fps: float | None = None


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Frames in [0, 1] as the nearest of 256 levels."""
    return (frames * 255).round().astype(np.uint8)
