"""The upscaler of a folder: of its own, of a pipeline, a checkpoint, or a run's newest one."""

from __future__ import annotations

from pathlib import Path

import torch

from t2v.errors import UserError
from t2v.io.checkpoint import newest_checkpoint
from t2v.io.text_files import read_json
from t2v.models.folder import EMBEDDED, embedded_model
from t2v.models.load import load_part, loading
from t2v.models.upscaler import VideoUpscaler

PART = "upscaler"  # its name in a pipeline folder


def load_upscaler(name: str, dtype: torch.dtype) -> VideoUpscaler:
    """Load the upscaler of a folder, or of the embedded model by its name.

    Raises:
        UserError: there is none, it is damaged, or another network.
    """
    folder = embedded_model() if name == EMBEDDED else Path(name)
    newest = newest_checkpoint(folder)
    places = [folder, folder / PART, *([newest / PART] if newest else [])]
    place = next((each for each in places if (each / "config.json").is_file()), None)
    if place is None:
        raise UserError(
            f"upscaler={name} holds no upscaler. Give the folder of one, a pipeline folder with "
            f"{PART}/ in it, or the output of `t2v train-upscaler`."
        )
    with loading(f"upscaler={place}"):
        found = read_json(place / "config.json").get("_class_name")
        if found != VideoUpscaler.__name__:
            raise UserError(f"{found} is no {VideoUpscaler.__name__}.")
    part: VideoUpscaler = load_part(f"upscaler={place}", VideoUpscaler, place, torch_dtype=dtype)
    return part.requires_grad_(False).eval()
