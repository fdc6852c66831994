"""LoRA files in a pipeline: loaded whole or refused, and their effect measured."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.loaders import WanLoraLoaderMixin
from torch import Tensor

from t2v.errors import UserError
from t2v.models.device import ready
from t2v.models.load import loading

logger = logging.getLogger(__name__)

ADAPTER = "lora"


class LoraLoader(WanLoraLoaderMixin):
    """Reads diffusers' LoRA files and those made for Wan, and refuses one that does not fit."""

    transformer: ModelMixin

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor], **kwargs: Any
    ) -> Any:
        """The tensors of a LoRA under our names, `transformer.LAYER.lora_A.weight` and so on.

        With `return_lora_metadata` also the rank and alpha that the file tells of.

        Raises:
            UserError: it cannot be read, or see `convert`.
        """
        from t2v.models.lora_file import convert, read_lora  # every pipeline loads this module

        told = kwargs.pop("return_lora_metadata", False)
        tensors, metadata = read_lora(pretrained_model_name_or_path_or_dict, **kwargs)
        tensors = convert(tensors, super().lora_state_dict)
        return (tensors, metadata) if told else tensors

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """As every diffusers pipeline does; but every tensor of a file must find its place.

        Tensors that are given as a dict are taken as far as they fit, with a warning.

        Raises:
            UserError: peft is missing, or see `convert` and `check_lora`.
        """
        from t2v.models.lora_file import check_lora, require_peft

        require_peft()
        given = pretrained_model_name_or_path_or_dict
        tensors = self.lora_state_dict(dict(given) if isinstance(given, dict) else given, **kwargs)
        try:
            count = check_lora(self.transformer, tensors)
        except UserError as error:
            if not isinstance(given, dict):
                raise
            logger.warning("%s", error)  # whoever picked the tensors may know why
        else:
            logger.info("LoRA: %d of %d tensors matched", count, count)
        super().load_lora_weights(given, adapter_name, hotswap, **kwargs)


def load_lora(pipeline: DiffusionPipeline, source: str | Path, scale: float) -> float:
    """Put a LoRA into `pipeline` at `scale`; returns its effect, see `lora_effect`.

    Args:
        source: the file, or a folder with `pytorch_lora_weights.safetensors`.
        scale: 0 leaves every bit as it was, 1 is the strength it was trained at.

    Raises:
        UserError: no such file, a pipeline that takes none, one that does not fit or does nothing.
    """
    from t2v.models.lora_file import check_lora, convert, lora_file, read_lora, require_peft

    path = lora_file(source)
    require_peft()
    if not isinstance(pipeline, WanLoraLoaderMixin):
        raise UserError(f"lora={source}: {type(pipeline).__name__} takes none. Leave it out.")
    # without this diffusers reads what it cannot read a second time, as a pickle
    reading = {"use_safetensors": True} if path.suffix == ".safetensors" else {}
    with loading(f"lora={source}"):
        if not isinstance(pipeline, LoraLoader):
            tensors, _ = read_lora(path, **reading)
            check_lora(pipeline.transformer, convert(tensors, pipeline.lora_state_dict))
        pipeline.load_lora_weights(path, adapter_name=ADAPTER, **reading)
    pipeline.set_adapters(ADAPTER, scale)
    effect = lora_effect(pipeline.transformer)
    logger.info(
        "lora=%s at scale %g changes the prediction by %.3g %%", source, scale, 100 * effect
    )
    if not math.isfinite(effect):
        raise UserError(
            f"lora={source}: with it the model answers NaN or infinite numbers. Its numbers are "
            f"too large for {str(pipeline.transformer.dtype).removeprefix('torch.')}, or for "
            f"lora_scale={scale:g}: lower the scale, or train it again."
        )
    if scale and not effect:
        raise UserError(
            f"lora={source} changes nothing: with and without it the model answers the same. "
            "It was saved before it was trained, or its alpha is 0."
        )
    return effect


@torch.no_grad()
def lora_effect(transformer: ModelMixin) -> float:
    """Return the change of a prediction by the active adapters, relative to its size without them.

    One forward pass with and one without, on the same small noise, time and text.
    """
    answers = []
    for switch in (transformer.enable_lora, transformer.disable_lora):
        switch()
        answers.append(prediction(transformer))
    transformer.enable_lora()
    tuned, plain = answers
    return ((tuned - plain).norm() / plain.norm()).item()


@torch.no_grad()
def prediction(transformer: ModelMixin) -> Tensor:
    """Return the prediction for some small noise, time and text, to compare two transformers by."""
    config, device = transformer.config, ready(transformer)
    generator = torch.Generator().manual_seed(0)
    size = [2 * step for step in config.patch_size]
    noise = torch.randn(1, config.in_channels, *size, generator=generator)
    text = torch.randn(1, 4, config.text_dim, generator=generator)
    noise, text = (each.to(device, transformer.dtype) for each in (noise, text))
    time = torch.full((1,), 500.0, device=device)
    return transformer(noise, time, text, return_dict=False)[0].double()
