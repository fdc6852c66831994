"""LoRAs and the schedule that they ask for, put into a pipeline before it samples."""

from __future__ import annotations

import logging
from collections.abc import Callable

from diffusers import DiffusionPipeline
from torch import nn

from t2v.config.checks import kind_of
from t2v.config.lora_presets import LORA_PRESETS
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.models.lora import act, insert_loras
from t2v.models.schedule import with_shift

logger = logging.getLogger(__name__)


def insertion(config: SampleConfig) -> Callable[[type[DiffusionPipeline], str, nn.Module], None]:
    """The call that puts the LoRAs of settings into a network, before its weights are held."""

    def insert(kind: type[DiffusionPipeline], name: str, network: nn.Module) -> None:
        insert_loras(kind, name, network, config.lora, config.lora_part, config.lora_fit)
        _check_held(name, network, config)

    return insert


def _check_held(name: str, network: nn.Module, config: SampleConfig) -> None:
    """Raise `UserError` for adapters that find no weights the way that these are held."""
    from t2v.models.lora_adapters import uses_weights

    apart = uses_weights(network)
    kind = "gguf" if config.model.endswith(".gguf") else kind_of(config.quantize, name)
    in_pieces = config.offload in ("leaf", "sequential") or kind in ("nf4", "gguf")
    hidden = apart if in_pieces else apart & {"DoRA"} if kind != "none" else set()
    if hidden:
        kinds = " and a ".join(sorted(hidden))
        raise UserError(
            f"offload={config.offload} quantize={config.quantize}: a {kinds} "
            "computes with weights that are not at hand then. Give offload=group or model and "
            "quantize=none, or a plain LoRA."
        )


def exchange_loras(pipeline: DiffusionPipeline, config: SampleConfig) -> None:
    """Put other LoRAs in the place of those in a pipeline whose weights are not held in pieces."""
    for name in ("transformer", "transformer_2"):
        transformer = getattr(pipeline, name, None)
        if transformer is None:
            continue
        if getattr(transformer, "peft_config", None):
            transformer.unload_lora()
        if config.lora:
            insertion(config)(type(pipeline), name, transformer)
    settle(pipeline, config)


def settle(pipeline: DiffusionPipeline, config: SampleConfig) -> None:
    """Let the LoRAs of settings act, and set the shift of the schedule.

    Raises:
        UserError: see `act` and `with_shift`.
    """
    if config.shift is not None:
        pipeline.scheduler = with_shift(pipeline.scheduler, config.shift)
    if config.lora:
        act(pipeline, config.lora, config.lora_scale, config.lora_part)
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
