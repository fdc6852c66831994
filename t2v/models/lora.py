"""LoRA files in a pipeline: loaded whole or refused, and their effect measured."""

from __future__ import annotations

import logging
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.loaders import WanLoraLoaderMixin
from torch import Tensor

from t2v.errors import UserError
from t2v.models.load import loading
from t2v.models.placement import ready

logger = logging.getLogger(__name__)

ADAPTER = "lora"
WEIGHTS = "pytorch_lora_weights.safetensors"  # what diffusers names the file in a folder
SHOWN = 3  # example names in a message
READING = ("weight_name", "use_safetensors", "local_files_only", "subfolder", "revision", "token")


class LoraLoader(WanLoraLoaderMixin):
    """Reads diffusers' LoRA files and those made for Wan, and refuses one that does not fit."""

    transformer: ModelMixin

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
            UserError: peft is missing, or see `check_lora`.
        """
        require_peft()
        given = pretrained_model_name_or_path_or_dict
        reading = {name: kwargs[name] for name in READING if name in kwargs}
        tensors = self.lora_state_dict(dict(given) if isinstance(given, dict) else given, **reading)
        try:
            count = check_lora(self.transformer, tensors)
        except UserError as error:
            if not isinstance(given, dict):
                raise
            logger.warning("%s", error)  # whoever picked the tensors may know why
        else:
            logger.info("LoRA: %d of %d tensors matched", count, count)
        super().load_lora_weights(given, adapter_name, hotswap, **kwargs)


def require_peft() -> None:
    """Raise `UserError` where the library of LoRA is not installed."""
    if find_spec("peft") is None:
        raise UserError('LoRA needs peft, which is not installed: pip install "t2v[train]".')


def check_lora(transformer: ModelMixin, tensors: dict[str, Tensor]) -> int:
    """How many tensors of a LoRA there are, each of which belongs to a layer of `transformer`.

    Args:
        tensors: as `lora_state_dict` gives them, `transformer.LAYER.lora_A.weight` and so on.

    Raises:
        UserError: a tensor has no layer, another shape or lacks its other half, or there is none;
            tells the counts and some names.
    """
    layers = {name.replace(".base_layer", ""): each for name, each in _layers(transformer).items()}
    verdicts = {name: _verdict(name, tensor, tensors, layers) for name, tensor in tensors.items()}
    counts = Counter(verdicts.values())
    if tensors and counts["matched"] == len(tensors):
        return len(tensors)
    shown = []
    for kind in ("unexpected", "of another shape", "without its other half"):
        names = [name for name, verdict in verdicts.items() if verdict == kind]
        if names:
            rest = ", ..." if len(names) > SHOWN else ""
            shown.append(f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{rest})")
    raise UserError(
        f"The LoRA does not fit {type(transformer).__name__}: of {len(tensors)} tensors "
        f"{counts['matched']} match{''.join(f', {each}' for each in shown)}. "
        f"Its layers are named transformer.{next(iter(layers))} and the like. "
        "Load it into the model it was trained on."
    )


def load_lora(pipeline: DiffusionPipeline, source: str | Path, scale: float) -> float:
    """Put a LoRA into `pipeline` at `scale`; returns its effect, see `lora_effect`.

    Args:
        source: the file, or a folder with `pytorch_lora_weights.safetensors`.
        scale: 0 leaves every bit as it was, 1 is the strength it was trained at.

    Raises:
        UserError: no such file, a pipeline that takes none, one that does not fit or does nothing.
    """
    path = lora_file(source)
    require_peft()
    if not isinstance(pipeline, WanLoraLoaderMixin):
        raise UserError(f"lora={source}: {type(pipeline).__name__} takes none. Leave it out.")
    with loading(f"lora={source}"):
        if not isinstance(pipeline, LoraLoader):
            check_lora(pipeline.transformer, pipeline.lora_state_dict(path))
        pipeline.load_lora_weights(path, adapter_name=ADAPTER)
    pipeline.set_adapters(ADAPTER, scale)
    effect = lora_effect(pipeline.transformer)
    logger.info(
        "lora=%s at scale %g changes the prediction by %.3g %%", source, scale, 100 * effect
    )
    if scale and not effect:
        raise UserError(
            f"lora={source} changes nothing: with and without it the model answers the same. "
            "It was saved before it was trained, or its alpha is 0."
        )
    return effect


def lora_file(source: str | Path) -> Path:
    """The file of a LoRA that is named by itself or by its folder.

    Raises:
        UserError: it is not there.
    """
    path = Path(source)
    for each in (path, path / WEIGHTS):
        if each.is_file():
            return each
    raise UserError(f"lora={source}: there is no such file, and no folder with {WEIGHTS}.")


@torch.no_grad()
def lora_effect(transformer: ModelMixin) -> float:
    """How far the active adapters move a prediction, relative to its size without them.

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
    """What a transformer answers to some small noise, time and text: to compare two by."""
    config, device = transformer.config, ready(transformer)
    generator = torch.Generator().manual_seed(0)
    size = [2 * step for step in config.patch_size]
    noise = torch.randn(1, config.in_channels, *size, generator=generator)
    text = torch.randn(1, 4, config.text_dim, generator=generator)
    noise, text = (each.to(device, transformer.dtype) for each in (noise, text))
    time = torch.full((1,), 500.0, device=device)
    return transformer(noise, time, text, return_dict=False)[0].double()


def _layers(transformer: ModelMixin) -> dict[str, Tensor]:
    """The weight of every layer that may carry a LoRA, by name."""
    return {
        name: module.weight
        for name, module in transformer.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
        and module.weight.ndim > 1
        and ".lora_" not in name
        and not hasattr(module, "base_layer")
    }


def _verdict(
    name: str, tensor: Tensor, tensors: dict[str, Tensor], layers: dict[str, Tensor]
) -> str:
    layer, _, half = name.removeprefix("transformer.").partition(".lora_")
    if not name.startswith("transformer.") or layer not in layers:
        return "unexpected"
    weight = layers[layer]
    shapes = {
        "A.weight": (tensor.shape[1:], weight.shape[1:]),
        "B.weight": (len(tensor), len(weight)),
    }
    if half in shapes:
        given, wanted = shapes[half]
        partner = f"transformer.{layer}.lora_{'BA'[half[0] == 'B']}.weight"
        if given != wanted:
            return "of another shape"
        return "matched" if partner in tensors else "without its other half"
    return "matched" if half == "B.bias" and tensor.shape == weight.shape[:1] else "unexpected"
