"""ComfyUI around the nodes: its progress bar, interruption, memory and LoRA folders, if it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

PREVIEW = 512  # longer side of a preview, pixels


def _part(name: str) -> ModuleType | None:
    """A module of ComfyUI, which is loaded long before a node runs; None: something else runs."""
    return sys.modules.get(name)


def progress(total: int) -> Callable[[int, np.ndarray | None], None]:
    """Return what shows steps of `total` on a node, and a frame `h w c` uint8 if one is given."""
    part = _part("comfy.utils")
    bar: Any = part and part.ProgressBar(total)

    def show(step: int, frame: np.ndarray | None = None) -> None:
        if bar is not None:
            preview = None if frame is None else ("JPEG", Image.fromarray(frame), PREVIEW)
            bar.update_absolute(step, total, preview)

    return show


def is_watched() -> bool:
    """True where somebody would see a preview."""
    return _part("comfy.utils") is not None


def check_interrupted() -> None:
    """End the node, by ComfyUI's own exception, where its user pressed stop."""
    part = _part("comfy.model_management")
    if part is not None:
        part.throw_exception_if_processing_interrupted()


def make_room(nbytes: int) -> None:
    """Have other models of ComfyUI leave its device as far as `nbytes` more need it."""
    part = _part("comfy.model_management")
    if part is not None:
        part.free_memory(nbytes, part.get_torch_device())


def lora_path(name: str) -> str:
    """The file of a LoRA by its name in ComfyUI's `loras` folders; any other name as it is."""
    part = _part("folder_paths")
    found = None if part is None else part.get_full_path("loras", name)
    return str(found or name)
