"""Names in LoRA files, whatever tool wrote them, and the layers of a transformer they mean."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from diffusers import ModelMixin
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from torch import Tensor, nn

from t2v.errors import UserError

Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]  # diffusers' own renaming, of one family

# before the names of layers: of peft, ComfyUI, diffusers
PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
# of kohya's scripts and musubi-tuner, and of LyCORIS alone, which write `_` for the dots of a name
UNDERSCORED = ("lora_unet_", "lora_transformer_", "lycoris_")
NUMBER = re.compile(r"_(?=\d)|(?<=\d)_")
# modules with modules in them, by their authors' names, where `_` stands for a dot behind them
WHOLE = re.compile(
    r"((?:self|cross)_attn(?!_qkv|_proj)|ffn|head|img_emb|txt_in|(?:img|txt)_(?:mod|mlp)|modulation"
    r"|individual_token_refiner)_"
)
ALPHA = ".alpha"
SHOWN = 3  # example names in a message
UNREADABLE = (OSError, LookupError, ValueError, AttributeError, TypeError, RuntimeError)


class LayerNames:
    """The layers of a transformer, found by the names that files have for them.

    Args:
        transformer: any of diffusers, with or without adapters in it.
    """

    def __init__(self, transformer: ModelMixin) -> None:
        self.kind = type(transformer).__name__
        self.layers = layers_of(transformer)
        self.underscored = {name.replace(".", "_"): name for name in self.layers}

    def own(self, name: str) -> str | None:
        """The layer that a file names as diffusers does, with any prefix or `_` for the dots."""
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        for prefix in UNDERSCORED:
            if name.startswith(prefix):
                return self.underscored.get(name.removeprefix(prefix))
        return name if name in self.layers else None

    def original(self, name: str) -> str | None:
        """The one layer that a file names as the model's authors do, by diffusers' table."""
        entry = SINGLE_FILE_LOADABLE_CLASSES.get(self.kind)
        if entry is None:
            return None
        name = dotted(name)
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        try:
            found = entry["checkpoint_mapping_fn"]({f"{name}.weight": torch.zeros(1)})
        except UNREADABLE:  # a layer that diffusers splits, or none
            return None
        names = [each.removesuffix(".weight") for each in found]
        return names[0] if len(names) == 1 and names[0] in self.layers else None


def layers_of(transformer: ModelMixin) -> dict[str, nn.Module]:
    """Every module with a weight, by name, as it is beneath the adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, nn.Module] = {}
    adapters: list[str] = []  # names of adapted layers: only their base layer is the model's
    for name, module in transformer.named_modules():
        if isinstance(module, BaseTunerLayer):
            adapters.append(f"{name}.")
            continue
        above = next((each for each in adapters if name.startswith(each)), None)
        if above is not None and set(name.removeprefix(above).split(".")) != {"base_layer"}:
            continue
        if isinstance(getattr(module, "weight", None), Tensor):
            found[name.replace(".base_layer", "")] = module
    return found


def convert(tensors: dict[str, Tensor], library: Convert) -> dict[str, Tensor]:
    """The tensors of a plain LoRA under the names of our layers, alphas multiplied in.

    Args:
        tensors: as they are named in the file: by diffusers, the model's authors, ComfyUI or
            musubi-tuner.
        library: diffusers' own conversion. It silently drops tensors it does not know, so its
            output is compared with its input.

    Raises:
        UserError: tensors would be dropped; with the counts and some names.
    """
    named = {dotted(name): tensor for name, tensor in tensors.items()}
    try:
        lost = [name for name in _lost(named, library) if named[name].any()]  # zeros do nothing
        if lost:
            raise UserError(
                f"Of the {len(tensors)} tensors of the LoRA {len(lost)} would not be applied "
                f"({some(lost)}). Load it with `load_lora_weights` of a T2VPipeline, which knows "
                "its layers, or with the tool that made it."
            )
        return library(named)
    except UNREADABLE as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"The names and shapes of its {len(tensors)} tensors ({some(list(tensors))}) do not "
            f"belong to any known LoRA format: {type(error).__name__} {str(error)[:200]}"
        ) from error


def some(names: list[str], most: int = SHOWN) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def dotted(name: str) -> str:
    """A tensor's or layer's name with the dots for which kohya's scripts and musubi write `_`.

    diffusers reads files of musubi for Wan too, but only if they hold every layer of every block.
    """
    for prefix in UNDERSCORED:
        if name.startswith(prefix):
            layer, dot, rest = name.removeprefix(prefix).partition(".")
            layer = WHOLE.sub(r"\1.", NUMBER.sub(".", layer))
            return f"diffusion_model.{layer}{dot}{rest}"
    return name


def _lost(tensors: dict[str, Tensor], library: Convert) -> list[str]:
    """The names of the tensors that `library` drops.

    Each is sent through it in its own shape, filled with a number that identifies it; alphas are
    the rank, so that none is scaled.
    """
    ranks = {
        name.split(".lora_")[0]: len(tensor)
        for name, tensor in tensors.items()
        if ".lora_down." in name or ".lora_A." in name
    }
    numbers = {
        name: torch.tensor(float(ranks.get(name.removesuffix(ALPHA), 1)))
        if name.endswith(ALPHA)
        else torch.tensor(float(place)).expand(tensor.shape)
        for place, (name, tensor) in enumerate(tensors.items(), 2)
    }
    arrived: set[int] = set()
    for number in library(dict(numbers)).values():
        edges = [number.flatten()] if number.ndim < 2 else [number[0].flatten(), number[:, 0]]
        for edge in edges:  # layers are joined and split along whole rows and columns
            arrived |= {int(each) for each in edge.flatten().unique()}
    kept = [name for place, name in enumerate(tensors, 2) if place in arrived]
    layers = {name.split(".lora_")[0] for name in kept}
    return [
        name
        for name in tensors
        if name not in kept and not (name.endswith(ALPHA) and name.removesuffix(ALPHA) in layers)
    ]
