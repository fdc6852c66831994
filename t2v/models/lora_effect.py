"""The effect of a LoRA: the change of a prediction, measured in the transformer of any family."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from PIL import Image
from torch import Tensor

from t2v.models.device import ready

Call = tuple[tuple[Any, ...], dict[str, Any]]  # the arguments of a transformer
# frames, height and width of the call that is recorded, the first that a pipeline takes; the last
# are its own
SIZES: tuple[tuple[int | None, ...], ...] = ((9, 64, 64), (17, 256, 256), (None, None, None))


class Recorded(Exception):
    """The end of a call of a pipeline whose first prediction was asked for."""


@torch.no_grad()
def lora_effect(transformer: ModelMixin, call: Call | None = None) -> float:
    """The change of a prediction by the active adapters, relative to its norm without them.

    One forward pass with and one without, on the same small noise, time and text.

    Args:
        call: what the transformer is given; None: what `prediction` makes for it.
    """
    predictions = []
    for switch in (transformer.enable_lora, transformer.disable_lora):
        switch()
        predictions.append(prediction(transformer) if call is None else _first(transformer, call))
    transformer.enable_lora()
    tuned, plain = predictions
    return ((tuned - plain).norm() / plain.norm()).item()


def recorded_call(pipeline: DiffusionPipeline) -> Call | None:
    """The arguments of the first call of a transformer, at the smallest of `SIZES` that fits.

    None for a transformer as Wan's, for which `prediction` makes it without the text encoder.

    Raises:
        RuntimeError: it takes none of the sizes; with its own reason.
    """
    config = pipeline.transformer.config
    if {"text_dim", "patch_size"} <= config.keys() and "vace_layers" not in config:
        return None
    reason: Exception | None = None
    for size in SIZES:
        try:
            return _record(pipeline, size)
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
            reason = error
    raise RuntimeError(str(reason)[:300]) from reason


@torch.no_grad()
def _record(pipeline: DiffusionPipeline, size: tuple[int | None, ...]) -> Call:
    """The arguments of the first call of a transformer, which is not made."""
    found: list[Call] = []

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append((args, kwargs))
        raise Recorded

    parts = [pipeline.transformer, getattr(pipeline, "transformer_2", None)]
    hooks = [
        part.register_forward_pre_hook(keep, with_kwargs=True) for part in parts if part is not None
    ]
    try:
        pipeline(**_arguments(pipeline, size))
    except Recorded:
        return found[0]
    finally:
        for hook in hooks:
            hook.remove()
    raise RuntimeError("its call makes no prediction")


def _arguments(pipeline: DiffusionPipeline, size: tuple[int | None, ...]) -> dict[str, Any]:
    frames, height, width = size
    wanted: dict[str, Any] = {
        "prompt": "a video",
        "num_frames": frames,
        "height": height,
        "width": width,
        "use_resolution_binning": False,  # which would enlarge it
        "num_inference_steps": 2,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(0),
    }
    parameters = inspect.signature(pipeline.__call__).parameters
    if {"video", "strength"} <= parameters.keys() and "num_frames" not in parameters:
        wanted["video"] = [Image.new("RGB", (width or 832, height or 480), "gray")] * (frames or 49)
    wanted["image"] = Image.new("RGB", (width or 832, height or 480), "gray")
    return {name: each for name, each in wanted.items() if name in parameters and each is not None}


def _first(transformer: ModelMixin, call: Call) -> Tensor:
    args, kwargs = call
    return transformer(*args, **kwargs)[0].double()


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
        shape, both = (1, 4), config.get("pos_embed_seq_len")
        if both is not None:  # tokens of two pictures, of which diffusers makes a row each
            is_ours = type(transformer).__module__.startswith("t2v")
            shape = (1, both) if is_ours else (2, both // 2)
        image["encoder_hidden_states_image"] = noise(*shape, config.image_dim)
    return transformer(*given, return_dict=False, **image)[0].double()
