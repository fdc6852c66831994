"""From the name of a model to a pipeline that is ready on its device."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.models.device import check_memory, pick_device, pick_dtype
from t2v.models.folder import model_folder, read_index, weights_hash
from t2v.models.load import load_parts, loading, quiet_bars, refuse_damaged
from t2v.models.lora import load_lora

BYTES_PER_PIXEL = 3 * (4 + 1)  # of a decoded video, and of the frames that are written


def load_pipeline(config: SampleConfig) -> tuple[DiffusionPipeline, str]:
    """The pipeline of `config.model`, ready on its device, and the hash of its weights.

    Raises:
        UserError: the model, the device, the LoRA or the attention backend is not to be had.
    """
    quiet_bars()
    device = pick_device(config.device)
    folder = model_folder(config.model)
    _check_size(folder, config, device)
    what, dtype = f"model={config.model}", pick_dtype(config.dtype, device)
    with loading(what):
        weights = weights_hash(folder)
    parts = load_parts(what, folder, dtype)
    with loading(what):
        pipeline = DiffusionPipeline.from_pretrained(
            folder, dtype=dtype, local_files_only=True, **parts
        )
    for part in pipeline.components.values():  # those that were left to diffusers
        if isinstance(part, torch.nn.Module) and part not in parts.values():
            refuse_damaged(what, part)
    pipeline.to(device)
    if config.lora is not None:
        load_lora(pipeline, config.lora, config.lora_scale)
    pipeline.set_progress_bar_config(desc="denoising", disable=not sys.stderr.isatty())
    if config.attention != "native":
        _set_attention(pipeline, config.attention)
    return pipeline, weights


def _check_size(folder: Path, config: SampleConfig, device: torch.device) -> None:
    """Refuse a video whose frames alone are larger than the memory, before the weights are read."""
    saved = read_index(folder)
    sizes: dict[str, Any] = {
        name: getattr(config, name) or saved.get(name) for name in ("height", "width", "num_frames")
    }
    fps = config.fps or saved.get("fps")
    if config.duration is not None and fps:
        sizes["num_frames"] = config.duration * fps
    if all(isinstance(size, int | float) for size in sizes.values()):
        check_memory(
            " ".join(f"{name}={size:g}" for name, size in sizes.items()),
            int(math.prod(sizes.values())) * BYTES_PER_PIXEL,
            device,
            "Ask for fewer frames or a smaller size; `t2v plan sample` tells what they take.",
        )


def _set_attention(pipeline: DiffusionPipeline, backend: str) -> None:
    try:
        pipeline.transformer.set_attention_backend(backend)
    except (AttributeError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"attention={backend}: not usable here. {error}") from error
