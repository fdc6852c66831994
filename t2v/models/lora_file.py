"""LoRA files: read, renamed to our layers and compared with them, or refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.loaders.lora_base import _fetch_state_dict
from safetensors import SafetensorError
from torch import Tensor

from t2v.errors import UserError
from t2v.models.finite import is_finite

WEIGHTS = "pytorch_lora_weights.safetensors"  # what diffusers names the file in a folder
SHOWN = 3  # example names in a message
# the options of diffusers that `_fetch_state_dict` takes
READING = {
    "weight_name": None,
    "local_files_only": None,
    "cache_dir": None,
    "force_download": False,
    "proxies": None,
    "token": None,
    "revision": None,
    "subfolder": None,
}
AGENT = {"file_type": "attn_procs_weights", "framework": "pytorch"}
OTHER_KINDS = {  # in the names of their tensors
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_": "OFT",
    "boft_": "BOFT",
}
MUSUBI = re.compile(r"lora_unet_(?P<layer>\w+)\.(?P<rest>.+)")
NUMBER = re.compile(r"_(?=\d)|(?<=\d)_")
ALPHA = ".alpha"
UNREADABLE = (OSError, LookupError, ValueError, AttributeError, TypeError, RuntimeError)


def require_peft() -> None:
    """Raise `UserError` where peft is not installed."""
    if find_spec("peft") is None:
        raise UserError('LoRA needs peft, which is not installed: pip install "t2v[train]".')


def read_lora(
    source: str | Path | dict[str, Tensor], **options: Any
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a LoRA file under the names they have in it, and the settings stored in it.

    Args:
        source: a file, a folder or a hub id, or the tensors themselves.
        options: as diffusers' `load_lora_weights` takes them.

    Raises:
        UserError: it cannot be read, or does not hold tensors of finite floating-point numbers.
    """
    safe = options.get("use_safetensors")
    reading = {name: options.get(name, default) for name, default in READING.items()}
    try:
        tensors, metadata = _fetch_state_dict(
            source,
            use_safetensors=safe is not False,
            allow_pickle=safe is None,
            user_agent=AGENT,
            **reading,
        )
    except (*UNREADABLE, UnpicklingError, SafetensorError, EOFError) as error:
        raise UserError(f"The LoRA cannot be read: {str(error)[:200]}") from error
    if not isinstance(tensors, dict) or not all(map(_is_tensor, tensors.items())):
        raise UserError("The file holds other things than named tensors, so it is not a LoRA.")
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or name.endswith(ALPHA)):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"The LoRA's tensor {name} holds {kind}, not floating-point numbers.")
        if not is_finite(tensor):
            raise UserError(
                f"The LoRA's tensor {name} holds NaN or infinite values: its training failed or "
                "the file is damaged. Use an earlier checkpoint, or download it again."
            )
    return tensors, metadata


def convert(
    tensors: dict[str, Tensor], library: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors of a LoRA under the names of our layers.

    Args:
        tensors: as they are named in the file: by diffusers, Wan, ComfyUI or musubi-tuner.
        library: diffusers' own conversion. It silently drops tensors it does not know, so its
            output is compared with its input.

    Raises:
        UserError: it is a LoKr, LoHa, DoRA or the like, or tensors would be dropped; with
            the counts and some names.
    """
    for mark, kind in OTHER_KINDS.items():
        if found := [name for name in tensors if mark in name.rpartition(".lora_unet_")[2]]:
            raise UserError(
                f"It is a {kind}, by {len(found)} of its {len(tensors)} tensors ({_some(found)}); "
                "only plain LoRA can be loaded. Save it as one, or merge it into the model with "
                "the tool that made it."
            )
    named = {_from_musubi(name): tensor for name, tensor in tensors.items()}
    try:
        lost = [name for name in _lost(named, library) if named[name].any()]  # zeros do nothing
        if lost:
            raise UserError(
                f"Of the {len(tensors)} tensors of the LoRA {len(lost)} would not be applied "
                f"({_some(lost)}): changes of norms, and of biases without a LoRA, are not "
                "supported. Load it with the tool that made it, or remove those from the file."
            )
        return library(named)
    except UNREADABLE as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"The names and shapes of its {len(tensors)} tensors ({_some(list(tensors))}) do not "
            f"belong to any known LoRA format: {type(error).__name__} {str(error)[:200]}"
        ) from error


def _is_tensor(entry: tuple[Any, Any]) -> bool:
    name, value = entry
    return isinstance(name, str) and isinstance(value, Tensor)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _from_musubi(name: str) -> str:
    """A tensor's name as Wan has it; musubi-tuner writes `_` for the dots of a layer.

    diffusers reads its files too, but only if they hold every layer of every block.
    """
    match = MUSUBI.fullmatch(name)
    if match is None:
        return name
    layer = NUMBER.sub(".", match["layer"])
    for whole in ("self_attn", "cross_attn"):
        layer = layer.replace(f"{whole}_", f"{whole}.")
    return f"diffusion_model.{layer.replace('head_head', 'head.head')}.{match['rest']}"


def _lost(
    tensors: dict[str, Tensor], library: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> list[str]:
    """The names of the tensors that `library` drops.

    Each is sent through it as one number that identifies it; alphas are 1, the rank of such
    numbers, so that none is scaled.
    """
    numbers = {
        name: torch.tensor(1.0) if name.endswith(ALPHA) else torch.full((1, 1), float(place))
        for place, name in enumerate(tensors, 2)
    }
    arrived = {int(number.flatten()[0]) for number in library(dict(numbers)).values()}
    kept = [name for place, name in enumerate(tensors, 2) if place in arrived]
    layers = {name.split(".lora_")[0] for name in kept}
    return [
        name
        for name in tensors
        if name not in kept and not (name.endswith(ALPHA) and name.removesuffix(ALPHA) in layers)
    ]


def check_lora(transformer: ModelMixin, tensors: dict[str, Tensor]) -> int:
    """Return the number of tensors of a LoRA; each must belong to a layer of `transformer`.

    Args:
        tensors: as `lora_state_dict` gives them, `transformer.LAYER.lora_A.weight` and so on.

    Raises:
        UserError: a tensor has no layer, another shape or no counterpart, or there is none;
            with the counts and some names.
    """
    layers = {name.replace(".base_layer", ""): each for name, each in _layers(transformer).items()}
    fits = {name: _fit(name, tensor, tensors, layers) for name, tensor in tensors.items()}
    counts = Counter(fits.values())
    if tensors and counts["matched"] == len(tensors):
        return len(tensors)
    shown = []
    for kind in ("unexpected", "of another shape", "without its other half"):
        names = [name for name, fit in fits.items() if fit == kind]
        if names:
            rest = ", ..." if len(names) > SHOWN else ""
            shown.append(f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{rest})")
    raise UserError(
        f"The LoRA does not fit {type(transformer).__name__}: of {len(tensors)} tensors "
        f"{counts['matched']} match{''.join(f', {each}' for each in shown)}. "
        f"Its layers are named transformer.{next(iter(layers))} and the like. "
        "Load it into the model it was trained on."
    )


def sort_metadata(path: Path) -> None:
    """Write the metadata of a safetensors file in the order of its names, in place.

    safetensors writes it in random order, so equal files would have different hashes.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(content) <= length, "JSON as safetensors writes it, in another order"
        file.seek(8)
        file.write(content.ljust(length))


def lora_file(source: str | Path) -> Path:
    """The file of a LoRA that is named by itself or by its folder.

    Raises:
        UserError: there is no such file.
    """
    path = Path(source)
    for each in (path, path / WEIGHTS):
        if each.is_file():
            return each
    raise UserError(f"lora={source}: there is no such file, and no folder with {WEIGHTS}.")


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


def _fit(name: str, tensor: Tensor, tensors: dict[str, Tensor], layers: dict[str, Tensor]) -> str:
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
    if half != "B.bias" or tensor.shape != weight.shape[:1]:
        return "unexpected"
    pair = f"transformer.{layer}.lora_B.weight"  # peft reads no bias without it
    return "matched" if pair in tensors else "without its other half"
