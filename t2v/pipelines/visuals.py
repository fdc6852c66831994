"""Pictures, clips and masks that a video is made from, as the user hands them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from t2v.errors import UserError, shortened

Fit = Literal["crop", "pad"]
Frames: TypeAlias = Image.Image | Sequence[Image.Image] | np.ndarray | Tensor
SIGN = "<image>"  # in a prompt, for the next reference picture
SPOKEN = "it"  # what the text encoder reads there
WHITE = 0.5  # a mask's lightness from which on a pixel is made anew


@dataclass(frozen=True, eq=False)
class VideoCondition:
    """Frames that the video shows from a place on, as in diffusers' LTX pipelines.

    Args:
        frames: a picture or a clip, as `frames_tensor` takes it.
        frame_index: the place of its first frame; negative ones count from the end.
        strength: how surely it is kept, in (0, 1]; 1 keeps it exactly.
    """

    frames: Frames
    frame_index: int = 0
    strength: float = 1.0


@dataclass(frozen=True, eq=False)
class VisualInputs:
    """All that one video is given to see; sizes are fitted, see `fit_frames`.

    Args:
        image: the first frame.
        last_image: the last frame.
        video: a clip that the video goes on from; with a mask one that is partly made anew, with
            the strength of a request one that is edited.
        mask: of `video`, one picture or one a frame: white is made anew, black is kept.
        conditions: pictures and clips at any place.
        reference_images: pictures of the subjects, in the order that the prompt speaks of them;
            no frame of the video shows them as they are.
        fit: crop the middle to the shape of the video, or pad with black.
    """

    image: Frames | None = None
    last_image: Frames | None = None
    video: Frames | None = None
    mask: Frames | None = None
    conditions: Sequence[VideoCondition] = ()
    fit: Fit = "crop"
    reference_images: Sequence[Frames] = ()

    def names(self) -> list[str]:
        """The names of what is given."""
        names = ("image", "last_image", "video", "mask")
        given = [name for name in names if getattr(self, name) is not None]
        several = ("conditions", "reference_images")
        lists = {name: getattr(self, name) for name in several}
        return [*given, *(n for n, each in lists.items() if not (_is_list(each) and not each))]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def spoken(prompt: str, references: int) -> str:
    """A prompt as the text encoder reads it: "<image> moves left" without its signs.

    Args:
        references: the number of reference pictures; the signs stand for them in order.

    Raises:
        UserError: there are signs, and not as many as pictures.
    """
    count = prompt.count(SIGN)
    if count not in (0, references):
        raise UserError(
            f"prompt {shortened(prompt)} has {count} {SIGN}, and reference_images {references} "
            f"pictures. Write {SIGN} once for each picture, or leave it out."
        )
    return prompt.replace(SIGN, SPOKEN)


def spoken_all(prompt: Any, references: int) -> Any:
    """`spoken` of each prompt of a call; what is no prompt stays, and is refused where it is."""
    if isinstance(prompt, str):
        return spoken(prompt, references)
    if isinstance(prompt, list | tuple):
        return [spoken_all(each, references) for each in prompt]
    return prompt


def frames_tensor(frames: Frames, name: str) -> Tensor:
    """Frames as `t c h w` in [0, 1], with three channels.

    Args:
        frames: a PIL image or several of one size, read as files are (upright by EXIF, 16 bits
            reduced to 8, on white where they are transparent); uint8 or float in [0, 1], `h w c` or
            `t h w c` as an array, `c h w` or `t c h w` as a tensor.
        name: of the argument, for messages.

    Raises:
        UserError: anything else.
    """
    if isinstance(frames, Image.Image):
        frames = [frames]
    if isinstance(frames, Sequence) and frames and isinstance(frames[0], Image.Image):
        from t2v.footage.picture import shown  # most videos are of a prompt alone

        if len(sizes := {frame.size for frame in frames}) > 1:
            raise UserError(f"{name}: its frames have the sizes {sorted(sizes)}. Give one size.")
        frames = np.stack([shown(frame) for frame in frames])
    if isinstance(frames, np.ndarray) and frames.ndim in (3, 4):
        values = torch.from_numpy(np.array(frames))  # a copy: pictures of Pillow are read-only
        frames = rearrange(values[None] if values.ndim == 3 else values, "t h w c -> t c h w")
    if not isinstance(frames, Tensor) or frames.ndim not in (3, 4) or not frames.numel():
        raise UserError(
            f"{name} is {type(frames).__name__}: give PIL images, an array (frames, height, width, "
            "channels) or a tensor (frames, channels, height, width)."
        )
    frames = frames[None] if frames.ndim == 3 else frames
    frames = frames / 255 if frames.dtype == torch.uint8 else frames.float()
    if frames.shape[1] not in (1, 3) or not (frames.min() >= 0 and frames.max() <= 1):
        raise UserError(
            f"{name} has {frames.shape[1]} channels and values from {frames.min():g} to "
            f"{frames.max():g}: give 1 or 3 channels, uint8 or numbers from 0 to 1."
        )
    return frames.expand(-1, 3, -1, -1)


def fit_frames(frames: Tensor, height: int, width: int, fit: Fit) -> Tensor:
    """Frames `t c h w` at another size, never stretched.

    Scaled with an antialiased bicubic filter: to cover the size and cropped around the middle, or
    to lie inside it and padded with black. Frames of that size stay as they are.
    """
    if frames.shape[2:] == (height, width):
        return frames
    sides = torch.tensor([height / frames.shape[2], width / frames.shape[3]])
    scale = float(sides.max() if fit == "crop" else sides.min())
    h, w = (max(1, round(side * scale)) for side in frames.shape[2:])
    frames = F.interpolate(frames, (h, w), mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (h - height) // 2, (w - width) // 2  # negative ones pad
    return F.pad(frames, (-left, width - w + left, -top, height - h + top))


def check_visuals(visuals: VisualInputs, strength: float | None) -> None:
    """Raise `UserError` for arguments that do not go together."""
    if not _is_list(visuals.conditions):
        raise UserError(
            f"conditions is {type(visuals.conditions).__name__}: give a list of "
            "VideoCondition(frames, frame_index)."
        )
    if not _is_list(visuals.reference_images):
        raise UserError(
            f"reference_images is {type(visuals.reference_images).__name__}: give a list of "
            "pictures."
        )
    if visuals.fit not in get_args(Fit):
        raise UserError(f"fit={visuals.fit!r}: give {' or '.join(get_args(Fit))}.")
    names = visuals.names()
    if strength is not None and not (isinstance(strength, Real) and 0 < strength <= 1):
        raise UserError(f"strength={strength!r}: it must be a number over 0 and at most 1.")
    if "mask" in names and "video" not in names:
        raise UserError("mask is given without video: give the clip that it masks.")
    if strength is not None and "video" not in names:
        raise UserError(f"strength={strength} is given without video: give the clip to edit.")
    whole = "mask" in names or strength is not None
    others = [name for name in names if name not in ("video", "mask", "reference_images")]
    if whole and others:
        raise UserError(
            f"{' and '.join(others)} beside video with a mask or strength: all frames are the "
            "clip's. Leave one out."
        )
    if "image" in names and "video" in names:
        raise UserError("image and video are both given, and both begin at frame 0. Give one.")


def whole_length(visuals: VisualInputs, strength: float | None) -> int | None:
    """The frames of the clip that is edited or partly made anew; None: the video has no such."""
    if visuals.video is None or (visuals.mask is None and strength is None):
        return None
    return len(frames_tensor(visuals.video, "video"))
