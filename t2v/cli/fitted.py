"""The settings of a video with its model held as the memory allows; a plan where it may not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from t2v.cli.commands import imported
from t2v.config.sampling import SampleConfig
from t2v.models.device import free_memory, pick_device
from t2v.models.folder import model_folder, weight_bytes

SMALL = 0.25  # of the free memory: weights below it are loaded without a plan


def as_memory_allows(config: SampleConfig, held: int = 0) -> SampleConfig:
    """The settings, with `offload=auto` replaced where the model may not fit whole.

    Args:
        held: bytes that others will leave to it, beside what is free.

    Raises:
        UserError: see `t2v.plan.fit.fitted`.
    """
    free = free_memory(pick_device(config.device))
    if config.offload != "auto" or free is None:
        return config
    free += held
    if config.engine == "local":  # each worker has a model of its own
        free //= config.workers or 1
    if weight_bytes(model_folder(config.folder)) < SMALL * free:
        return config
    whole = replace(config, model=config.folder, base=None)  # a single file is as large, or packed
    file = Path(config.model)
    packed = file.stat().st_size if file.suffix == ".gguf" and file.is_file() else None
    found: SampleConfig = imported("t2v.plan.fit:fitted")(whole, free, packed)  # takes seconds
    return replace(found, model=config.model, base=config.base)
