"""Captions from an OpenAI-compatible endpoint, which is shown frames."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from t2v.config.captions import CaptionConfig
from t2v.io.chat import complete


def ask(address: str, frames: Sequence[np.ndarray], config: CaptionConfig) -> str:
    """Ask the model at `address` for a caption of the frames, see `t2v.io.chat.complete`.

    Args:
        address: `https://HOST/v1#MODEL`.
        frames: each `h w c` uint8 RGB; they are sent as JPEG.

    Raises:
        NoAnswer: see `complete`, as for `UserError`.
    """
    content: list[dict[str, Any]] = [{"type": "text", "text": config.prompt}]
    content += [{"type": "image_url", "image_url": {"url": data_uri(frame)}} for frame in frames]
    return complete(address, content, config, "caption.authors")


def data_uri(frame: np.ndarray, quality: int = 85) -> str:
    """A frame, `h w c` uint8 RGB, as a JPEG in a data URI."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
