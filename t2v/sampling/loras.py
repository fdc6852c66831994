"""LoRAs and the schedule that they ask for, put into a pipeline before it samples."""

from __future__ import annotations

import logging

from diffusers import DiffusionPipeline

from t2v.config.lora_presets import LORA_PRESETS
from t2v.config.sampling import SampleConfig
from t2v.models.lora import load_loras
from t2v.models.schedule import with_shift

logger = logging.getLogger(__name__)


def remove_loras(pipeline: DiffusionPipeline) -> None:
    """Take every LoRA off again; the transformers are as they were."""
    for name in ("transformer", "transformer_2"):
        transformer = getattr(pipeline, name, None)
        if transformer is not None and getattr(transformer, "peft_config", None):
            transformer.unload_lora()


def add_loras(pipeline: DiffusionPipeline, config: SampleConfig) -> None:
    """Add the LoRAs of settings, and set the shift of the schedule.

    Raises:
        UserError: see `load_loras` and `with_shift`.
    """
    if config.shift is not None:
        pipeline.scheduler = with_shift(pipeline.scheduler, config.shift)
    if config.lora:
        load_loras(pipeline, config.lora, config.lora_scale, config.lora_part, config.lora_fit)
    if config.lora_preset is not None:
        logger.info(
            "lora_preset=%s: num_inference_steps=%s guidance_scale=%g shift=%g (from %s; what is "
            "given wins)",
            config.lora_preset,
            config.num_inference_steps,
            config.guidance_scale,
            config.shift,
            LORA_PRESETS[config.lora_preset].source,
        )
