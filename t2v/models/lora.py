"""LoRA files in a pipeline: loaded completely or refused, and their effect measured."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.loaders import WanLoraLoaderMixin
from torch import Tensor

from t2v.errors import UserError
from t2v.models.device import ready
from t2v.models.load import loading

logger = logging.getLogger(__name__)

ADAPTER = "lora"
LoRAPart = Literal["transformer", "transformer_2"]  # which one a LoRA is for


class LoraLoader(WanLoraLoaderMixin):
    """The part of a pipeline that reads LoRA files, diffusers' and those made for Wan."""

    transformer: ModelMixin

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor], **kwargs: Any
    ) -> Any:
        """The tensors of a LoRA under our names, `transformer.LAYER.lora_A.weight` and so on.

        With `return_lora_metadata` also the rank and alpha stored in the file.

        Raises:
            UserError: it cannot be read, or see `convert`.
        """
        from t2v.models.lora_file import convert, read_lora  # every pipeline loads this module

        with_metadata = kwargs.pop("return_lora_metadata", False)
        tensors, metadata = read_lora(pretrained_model_name_or_path_or_dict, **kwargs)
        tensors = convert(tensors, super().lora_state_dict)
        return (tensors, metadata) if with_metadata else tensors

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA as every diffusers pipeline does, but refuse a file with tensors of no layer.

        Of tensors given as a dict those that fit are taken, with a warning. With
        `load_into_transformer_2=True` it is for the second of two transformers (Wan 2.2 A14B).

        Raises:
            UserError: peft or the second transformer is missing, or see `convert` and `check_lora`.
        """
        from t2v.models.lora_file import check_lora, require_peft

        require_peft()
        part: LoRAPart = "transformer_2" if kwargs.get("load_into_transformer_2") else "transformer"
        transformer = transformer_of(self, part, f"load_into_transformer_2={part[-1] == '2'}")
        given = pretrained_model_name_or_path_or_dict
        tensors = self.lora_state_dict(dict(given) if isinstance(given, dict) else given, **kwargs)
        try:
            count = check_lora(transformer, tensors)
        except UserError as error:
            if not isinstance(given, dict):
                raise
            logger.warning("%s", error)  # the caller chose the tensors and may know why
        else:
            logger.info("LoRA: %d of %d tensors matched, in the %s", count, count, part)
        super().load_lora_weights(given, adapter_name, hotswap, **kwargs)


def transformer_of(pipeline: DiffusionPipeline, part: LoRAPart, what: str) -> ModelMixin:
    """The transformer that a LoRA is for.

    Args:
        what: the setting and its value; begins the message.

    Raises:
        UserError: the pipeline does not have it.
    """
    transformer = getattr(pipeline, part, None)
    if transformer is None:
        raise UserError(
            f"{what}: this {type(pipeline).__name__} has one transformer. Leave it out, or use a "
            "model with two (Wan 2.2 A14B)."
        )
    return transformer


def load_lora(
    pipeline: DiffusionPipeline, source: str | Path, scale: float, part: LoRAPart = "transformer"
) -> float:
    """Put a LoRA into `pipeline` at `scale`; returns its effect, see `lora_effect`.

    Args:
        source: the file, or a folder with `pytorch_lora_weights.safetensors`.
        scale: 0 leaves every bit as it was, 1 is the strength it was trained at.
        part: the transformer it is for, where there are two.

    Raises:
        UserError: no such file, a pipeline that takes none, one that does not fit or does nothing.
    """
    from t2v.models.lora_file import check_lora, convert, lora_file, read_lora, require_peft

    path = lora_file(source)
    require_peft()
    if not isinstance(pipeline, WanLoraLoaderMixin):
        raise UserError(f"lora={source}: a {type(pipeline).__name__} takes no LoRA. Leave it out.")
    transformer = transformer_of(pipeline, part, f"lora_part={part}")
    # without this diffusers reads a file it cannot read a second time, as a pickle
    reading: dict[str, Any] = {"use_safetensors": True} if path.suffix == ".safetensors" else {}
    reading["load_into_transformer_2"] = part == "transformer_2"
    with loading(f"lora={source}"):
        if not isinstance(pipeline, LoraLoader):
            tensors, _ = read_lora(path, **reading)
            check_lora(transformer, convert(tensors, pipeline.lora_state_dict))
        pipeline.load_lora_weights(path, adapter_name=ADAPTER, **reading)
    transformer.set_adapters(ADAPTER, scale)
    effect = lora_effect(transformer)
    logger.info(
        "lora=%s at scale %g changes the prediction by %.3g %%", source, scale, 100 * effect
    )
    if not math.isfinite(effect):
        raise UserError(
            f"lora={source}: with it the model predicts NaN or infinite values. Its weights are "
            f"too large for {str(transformer.dtype).removeprefix('torch.')}, or for "
            f"lora_scale={scale:g}: lower the scale, or train it again."
        )
    if scale and not effect:
        raise UserError(
            f"lora={source} changes nothing: the model predicts the same with and without it. "
            "It was saved before it was trained, or its alpha is 0."
        )
    return effect


@torch.no_grad()
def lora_effect(transformer: ModelMixin) -> float:
    """The change of a prediction by the active adapters, relative to its norm without them.

    One forward pass with and one without, on the same small noise, time and text.
    """
    predictions = []
    for switch in (transformer.enable_lora, transformer.disable_lora):
        switch()
        predictions.append(prediction(transformer))
    transformer.enable_lora()
    tuned, plain = predictions
    return ((tuned - plain).norm() / plain.norm()).item()


@torch.no_grad()
def prediction(transformer: ModelMixin) -> Tensor:
    """The prediction of a transformer for fixed small noise, time and text, to compare two by."""
    config, device = transformer.config, ready(transformer)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, transformer.dtype)

    given = [noise(1, config.in_channels, *(2 * step for step in config.patch_size))]
    text = noise(1, 4, config.text_dim)
    given += [torch.full((1,), 500.0, device=device), text]
    image = {}
    if config.get("image_dim") is not None:
        tokens = config.get("pos_embed_seq_len") or 4
        image["encoder_hidden_states_image"] = noise(1, tokens, config.image_dim)
    return transformer(*given, return_dict=False, **image)[0].double()
