"""Reference pictures: what the subjects of a video look like, in no frame of it as they are.

Their tokens stand beside those of the video at time 0, at places before its first frame, and are
dropped before decoding (as in Phantom, arXiv 2502.11079).
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2v.errors import UserError
from t2v.models.known import reference_position
from t2v.pipelines.visuals import VisualInputs, fit_frames, frames_tensor


def reference_frames(visuals: VisualInputs, height: int, width: int) -> list[Tensor]:
    """The reference pictures of a video in its size, each `1 c h w` in [0, 1].

    Raises:
        UserError: one is a clip, or see `frames_tensor`.
    """
    found = []
    for number, each in enumerate(visuals.reference_images):
        frames = frames_tensor(each, name := f"reference_images[{number}]")
        if len(frames) != 1:
            raise UserError(f"{name} has {len(frames)} frames. Give one picture.")
        found.append(fit_frames(frames, height, width, visuals.fit))
    return found


def with_references(
    references: Tensor, pictures: Tensor | None, positions: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Pictures `b c k h w` and their places in time `b k`, references before all others."""
    count, _, k = references.shape[:3]
    places = torch.tensor([[reference_position(n) for n in range(k)]] * count)
    places = places.to(references.device)
    if pictures is None or positions is None:
        return references, places
    return torch.cat([references, pictures], dim=2), torch.cat([places, positions], dim=1)
