"""From the name of a model to a pipeline that is ready on its device."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from huggingface_hub.errors import HTTPError  # httpx's, under whichever name the Hub has it

from t2v.config import SampleConfig
from t2v.errors import UserError
from t2v.models.load import loading, refuse_missing
from t2v.models.lora import load_lora
from t2v.models.placement import pick_device
from t2v.sampling.recipe import weights_hash

EMBEDDED = "t2v-tiny"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def embedded_model() -> Path:
    """The pipeline folder that comes with t2v: in the installed package, or in a clone.

    Raises:
        UserError: this installation has none.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "assets" / EMBEDDED, package.parent / "assets" / EMBEDDED):
        if (folder / "model_index.json").is_file():
            return folder
    raise UserError(f"This installation of t2v carries no {EMBEDDED}. Name a --model folder.")


def model_folder(model: str) -> Path:
    """Where a model is: the embedded one, a folder, or a Hub id, which is fetched into the cache.

    Raises:
        UserError: there is no such model, or the Hub cannot be reached.
    """
    folder = Path(model)
    if model == EMBEDDED:
        return embedded_model()
    if (folder / "model_index.json").is_file():
        return folder
    if folder.exists():
        raise UserError(f"model={model}: has no model_index.json, so it is no pipeline folder.")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
        raise UserError(f"model={model}: there is no such folder. The embedded model: {EMBEDDED}.")
    try:
        return Path(DiffusionPipeline.download(model))
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(
            f"model={model}: neither a folder here nor to be had from the Hugging Face Hub: {error}"
        ) from error


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of that name; `auto` is bf16 on a GPU and fp32 elsewhere."""
    return DTYPES[name if name != "auto" else "bf16" if device.type == "cuda" else "fp32"]


def load_pipeline(config: SampleConfig) -> tuple[DiffusionPipeline, str]:
    """The pipeline of `config.model`, ready on its device, and the hash of its weights.

    Raises:
        UserError: the model, the device, the LoRA or the attention backend is not to be had.
    """
    if not sys.stderr.isatty():
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
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
