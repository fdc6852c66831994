"""Text and image encoders that leave the memory when all prompts are embedded (`offload=text`)."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin
from PIL import Image
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.folder import base_folder, read_base
from t2v.models.load import loading, network_classes
from t2v.pipelines.generator import Generator, Request
from t2v.pipelines.visuals import VisualInputs

# the methods of pipelines that run encoders, and how the names of these begin
ENCODERS = {"encode_prompt": "text_encoder", "encode_image": "image_encoder"}


class Reached(Exception):
    """The call of a pipeline came to its first step."""


class Remembered:
    """A method of a pipeline whose results are kept in main memory, and given again.

    Args:
        name: of the method, for messages.
    """

    def __init__(self, name: str, method: Callable[..., Any]) -> None:
        self.name, self.method = name, method
        self.kept: dict[Any, Any] = {}
        self.is_closed = False

    def __call__(self, *args: Any, **options: Any) -> Any:
        given = inspect.signature(self.method).bind(*args, **options)
        given.apply_defaults()
        key = _key(dict(given.arguments))
        if key not in self.kept:
            if self.is_closed:
                raise UserError(
                    f"offload=text: the {ENCODERS[self.name]} is released, and something is to be "
                    "embedded that was not known before. Give offload=model."
                )
            found = self.method(*args, **options)
            self.kept[key] = _each(found, lambda tensor: (tensor.device, tensor.cpu().clone()))
        # a loop may write into what it is given
        return _each(self.kept[key], lambda pair: pair[1].to(pair[0], copy=True))


def _key(value: Any) -> Any:
    """A key that arguments of the same content share."""
    match value:
        case Tensor():
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            return str(value.dtype), tuple(value.shape), _hash(flat.numpy())
        case np.ndarray():
            return str(value.dtype), value.shape, _hash(np.ascontiguousarray(value))
        case Image.Image():
            return value.mode, value.size, _hash(value.tobytes())
        case list() | tuple():
            return tuple(_key(each) for each in value)
        case dict():
            return tuple((name, _key(each)) for name, each in value.items())
    return repr(value)


def _hash(content: Any) -> bytes:
    return hashlib.sha256(content).digest()


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """A result with each of its tensors, or pairs of a device and one, changed."""
    match value:
        case Tensor() | (torch.device(), Tensor()):
            return change(value)
        case list() | tuple():
            return type(value)(_each(each, change) for each in value)
        case dict():
            return {name: _each(each, change) for name, each in value.items()}
    return value


def embed_first(
    generator: Generator,
    prompts: Sequence[str],
    request: Request,
    visuals: Sequence[VisualInputs | None] = (),
    sees_others: bool = False,
) -> None:
    """Embed prompts, and pictures beside them, as the generator will before its first step.

    Args:
        sees_others: other pictures come later, so the image encoder stays.
    """
    generator.pipeline.set_progress_bar_config(disable=True)
    conditions = generator.encode(prompts, request, visuals)
    if not generator.is_trainable:  # others embed within their call
        for each in [[one] for one in conditions] if any(visuals) else [conditions]:
            with suppress(Reached):
                generator.generate(each, request, [0] * len(each))
    pictures = getattr(generator.pipeline, "encode_image", None)
    if sees_others and isinstance(pictures, Remembered):
        pictures.kept.clear()


def stand_ins(
    what: str, folder: Path, dtype: torch.dtype, device: torch.device
) -> dict[str, nn.Module]:
    """The transformers of a pipeline folder by name, as yet without weights; to call one raises
    `Reached`."""
    found = {}
    for name, kind in network_classes(what, folder).items():
        if not (name.startswith("transformer") and issubclass(kind, ModelMixin)):
            continue
        with loading(what):
            place, base = folder / name, read_base(folder)
            if base is not None and not any(place.glob("*.safetensors")):
                place = base_folder(folder, base) / name
            with torch.device("meta"):
                part = kind.from_config(kind.load_config(place, local_files_only=True))
        whole = set(part._keep_in_fp32_modules or ())  # as `from_pretrained` has it
        for each, weight in part.named_parameters():
            weight.data = weight.data.to(torch.float32 if whole & set(each.split(".")) else dtype)
        found[name] = without_weights(part, device)
    return found


def without_weights(part: nn.Module, device: torch.device) -> nn.Module:
    """Drop the weights of a network, which goes on saying that it is on `device`.

    Its settings and number format stay; to call it raises `Reached`.
    """

    def forward(self: nn.Module, *args: Any, **options: Any) -> None:
        raise Reached

    kind = type(part)
    own = {"device": property(lambda self: device), "forward": forward}
    part.__class__ = type(kind.__name__, (kind,), {**own, "__module__": kind.__module__})
    for module in part.modules():
        for place, weight in module._parameters.items():
            if weight is not None:
                there = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
                module._parameters[place] = nn.Parameter(there, requires_grad=False)
        for place, buffer in module._buffers.items():
            module._buffers[place] = None if buffer is None else buffer.to("meta")
    return part


@contextmanager
def released_after(what: str, pipeline: DiffusionPipeline, device: torch.device) -> Iterator[None]:
    """Remember what the pipeline embeds in the block; then let its encoders go.

    An encoder that had nothing to do in the block stays.

    Raises:
        UserError: the pipeline embeds prompts within its call.
    """
    if not hasattr(pipeline, "encode_prompt"):
        raise UserError(
            f"{what} offload=text: a {type(pipeline).__name__} embeds prompts within its call. "
            "Give offload=model."
        )
    methods = {name: getattr(pipeline, name) for name in ENCODERS if hasattr(pipeline, name)}
    remembered = {name: Remembered(name, method) for name, method in methods.items()}
    for name, each in remembered.items():
        setattr(pipeline, name, each)
    yield
    for name, each in remembered.items():
        if not each.kept:
            continue
        each.is_closed = True
        for other, part in pipeline.components.items():
            if other.startswith(ENCODERS[name]) and isinstance(part, nn.Module):
                without_weights(part, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
