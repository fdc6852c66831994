"""From the name of a model to a pipeline that is ready on its device."""

from __future__ import annotations

import sys

import torch
from diffusers import DiffusionPipeline

from t2v.config import SampleConfig
from t2v.errors import UserError
from t2v.models.folder import model_folder, weights_hash
from t2v.models.load import loading, quiet_bars, refuse_missing
from t2v.models.lora import load_lora
from t2v.models.placement import pick_device, pick_dtype


def load_pipeline(config: SampleConfig) -> tuple[DiffusionPipeline, str]:
    """The pipeline of `config.model`, ready on its device, and the hash of its weights.

    Raises:
        UserError: the model, the device, the LoRA or the attention backend is not to be had.
    """
    quiet_bars()
    device = pick_device(config.device)
    folder = model_folder(config.model)
    with loading(f"model={config.model}"):
        weights = weights_hash(folder)
        pipeline = DiffusionPipeline.from_pretrained(
            folder, dtype=pick_dtype(config.dtype, device), local_files_only=True
        )
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    refuse_missing(f"model={config.model}", *parts)
    pipeline.to(device)
    if config.lora is not None:
        load_lora(pipeline, config.lora, config.lora_scale)
    pipeline.set_progress_bar_config(desc="denoising", disable=not sys.stderr.isatty())
    if config.attention != "native":
        _set_attention(pipeline, config.attention)
    return pipeline, weights


def _set_attention(pipeline: DiffusionPipeline, backend: str) -> None:
    try:
        pipeline.transformer.set_attention_backend(backend)
    except (AttributeError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"attention={backend}: not usable here. {error}") from error
