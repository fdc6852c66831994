"""The contents of a LoRA file: its tensors by layer and kind, and which fit a transformer."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import ModelMixin
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

from t2v.errors import UserError, shortened
from t2v.models.lora_names import Convert, LayerNames, convert, dotted, layers_of, some

LoRAFit = Literal["strict", "partial"]  # refuse a file that does not fit whole, or take what fits
Parts = dict[str, Tensor]  # of one layer, by the end of the tensor's name

DOWN, UP = ("lora_A.weight", "lora_down.weight"), ("lora_B.weight", "lora_up.weight")
LORA_BIAS, MAGNITUDE = "lora_B.bias", "lora_magnitude_vector"
KRONECKER = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
HADAMARD = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
CHANGES = {"diff": "weight", "diff_b": "bias"}
ENDS = (*DOWN, *UP, LORA_BIAS, MAGNITUDE, "dora_scale", *KRONECKER, *HADAMARD, *CHANGES, "alpha")
# modules whose output is a sum of a part that is linear in the weight and of the bias
CHANGEABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.RMSNorm, RMSNorm)
DEFAULT = re.compile(r"\.(lora_[AB])\.default\.")  # DiffSynth-Studio keeps peft's adapter name
NOT_THERE, SHAPE, HALF = "unexpected", "of another shape", "without its other half"
KINDS = (NOT_THERE, SHAPE, HALF)


@dataclass
class LoRAContents:
    """The tensors of a LoRA file by what they do; layers are named as the transformer names them.

    Args:
        lora: `transformer.LAYER.lora_A.weight` and so on, as diffusers has them; with
            `lora_magnitude_vector` it is a DoRA.
        products: of each layer, the factors of a Kronecker (LoKr, arXiv 2108.06098) or Hadamard
            product (LoHa), with its alpha.
        changes: of each layer, what is added to its `weight` and `bias`.
        unknown: the names of the tensors that no layer is found for.
    """

    lora: dict[str, Tensor] = field(default_factory=dict)
    products: dict[str, Parts] = field(default_factory=dict)
    changes: dict[str, Parts] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def add(self, layer: str, parts: Parts) -> None:
        """Take the tensors that a file has for one layer."""
        lora, rest = plain_lora(parts)
        self.lora |= {f"transformer.{layer}.{name}": tensor for name, tensor in lora.items()}
        product = {name: each for name, each in rest.items() if name in (*KRONECKER, *HADAMARD)}
        if product:
            alpha = {"alpha": parts["alpha"]} if "alpha" in parts else {}
            self.products[layer] = product | alpha
        changes = {
            CHANGES[name]: tensor
            for name, tensor in rest.items()
            if name in CHANGES and tensor.any()  # many public files hold zeros
        }
        if changes:
            self.changes[layer] = changes

    def fits(self, transformer: ModelMixin) -> dict[str, str]:
        """Of each tensor by its name: "matched", or how it does not fit the transformer."""
        layers = layers_of(transformer)
        found = {name: NOT_THERE for name in self.unknown}
        found |= lora_fits(self.lora, layers)
        for layer, parts in self.products.items():
            fit = _product_fit(parts, layers.get(layer))
            found |= {f"{layer}.{name}": fit for name in parts if name != "alpha"}
        for layer, changes in self.changes.items():
            for name, change in changes.items():
                module = layers.get(layer)
                own = getattr(module, name, None) if isinstance(module, CHANGEABLE) else None
                fit = NOT_THERE if own is None else SHAPE
                right = own is not None and own.shape == change.shape
                found[f"{layer}.{name}"] = "matched" if right else fit
        return found

    def without(self, names: set[str]) -> LoRAContents:
        """The same without some tensors, and without the others of their layers."""
        gone = {layer_of(name) for name in names}
        return LoRAContents(
            lora={name: each for name, each in self.lora.items() if layer_of(name) not in gone},
            products={name: each for name, each in self.products.items() if name not in gone},
            changes={name: each for name, each in self.changes.items() if name not in gone},
        )


def plain_lora(parts: Parts) -> tuple[Parts, Parts]:
    """The LoRA or DoRA of a layer as diffusers names it, its alpha multiplied in, and the rest."""
    rest = dict(parts)
    down = next((rest.pop(name) for name in DOWN if name in rest), None)
    up = next((rest.pop(name) for name in UP if name in rest), None)
    alpha = rest.pop("alpha", None)
    if down is not None and alpha is not None:
        down = down * (float(alpha) / len(down))
    if up is not None and "diff_b" in rest:
        rest[LORA_BIAS] = rest.pop("diff_b")
    if "dora_scale" in rest:
        rest[MAGNITUDE] = _magnitudes(rest.pop("dora_scale"))
    named = {DOWN[0]: down, UP[0]: up, **{n: rest.pop(n, None) for n in (LORA_BIAS, MAGNITUDE)}}
    return {name: each for name, each in named.items() if each is not None}, rest


def layer_of(name: str) -> str:
    """The layer of a tensor of `LoRAContents`."""
    name = name.removeprefix("transformer.")
    for mark in (".lora_", ".lokr_", ".hada_"):
        name = name.partition(mark)[0]
    return name.removesuffix(".weight").removesuffix(".bias")


def contents(tensors: dict[str, Tensor], transformer: ModelMixin, library: Convert) -> LoRAContents:
    """The tensors of a file, each with the layer of `transformer` that it is for.

    Args:
        tensors: as the file names them.
        library: diffusers' own conversion for the family, for layers that it splits or joins.
    """
    names, found = LayerNames(transformer), LoRAContents()
    layers: dict[str, Parts] = defaultdict(dict)
    for name, tensor in tensors.items():
        name = DEFAULT.sub(r".\1.", name)
        end = next((end for end in ENDS if name.endswith(f".{end}")), None)
        if end is None:
            found.unknown.append(name)
        else:
            layers[name.removesuffix(f".{end}")][end] = tensor
    left: dict[str, Tensor] = {}
    as_named: list[str] = []
    for name, parts in layers.items():
        layer = names.own(name) or names.original(name)
        if parts.keys() == {"alpha"}:
            found.unknown.append(f"{name}.alpha")
        elif layer is not None:
            found.add(layer, parts)
        elif any(tensor.any() for tensor in parts.values()):  # zeros do nothing
            lora, rest = plain_lora(parts)
            left |= {f"{dotted(name)}.{end}": tensor for end, tensor in (lora | rest).items()}
            as_named += [f"{name}.{end}" for end in parts]
    try:
        found.lora |= convert(left, library) if left else {}
    except UserError:
        found.unknown += as_named
    return found


def taken(found: LoRAContents, transformer: ModelMixin, fit: LoRAFit) -> tuple[LoRAContents, str]:
    """The part of a file that is put into a transformer, and the words that say so.

    Raises:
        UserError: with "strict" a tensor does not fit; none does.
    """
    fits = found.fits(transformer)
    counts = Counter(fits.values())
    if fits and counts["matched"] == len(fits):
        return found, f"{len(fits)} of {len(fits)} tensors matched"
    if fit == "partial" and counts["matched"]:
        fitting = found.without({name for name, each in fits.items() if each != "matched"})
        kept = [name for name, each in fitting.fits(transformer).items() if each == "matched"]
        if kept:
            out = [name for name in fits if name not in kept]
            words = f"{len(kept)} of {len(fits)} tensors matched; {len(out)} left out: "
            return fitting, shortened(words + ", ".join(out), 3000)
    raise misfit(transformer, fits)


def check_lora(transformer: ModelMixin, tensors: dict[str, Tensor]) -> int:
    """Return the number of tensors of a LoRA; each must belong to a layer of `transformer`.

    Args:
        tensors: as `lora_state_dict` gives them, `transformer.LAYER.lora_A.weight` and so on.

    Raises:
        UserError: a tensor has no layer, another shape or no counterpart, or there is none;
            with the counts and some names.
    """
    taken(LoRAContents(lora=tensors), transformer, "strict")
    return len(tensors)


def misfit(transformer: ModelMixin, fits: dict[str, str]) -> UserError:
    """The error that counts the tensors of a file that do not fit, with some names."""
    matched, shown = sum(fit == "matched" for fit in fits.values()), []
    for kind in KINDS:
        if names := [name for name, fit in fits.items() if fit == kind]:
            shown.append(f"{len(names)} {kind} ({some(names)})")
    partly = ", or what fits of it with lora_fit=partial" if matched else ""
    return UserError(
        f"The LoRA does not fit {type(transformer).__name__}: of {len(fits)} tensors "
        f"{matched} match{''.join(f', {each}' for each in shown)}. "
        f"Its layers are named transformer.{next(iter(layers_of(transformer)))} and the like. "
        f"Load it into the model it was trained on{partly}."
    )


def lora_fits(tensors: dict[str, Tensor], layers: dict[str, nn.Module]) -> dict[str, str]:
    """Of each tensor of a plain LoRA, how it fits, see `LoRAContents.fits`."""
    return {name: _lora_fit(name, tensor, tensors, layers) for name, tensor in tensors.items()}


def _lora_fit(
    name: str, tensor: Tensor, tensors: dict[str, Tensor], layers: dict[str, nn.Module]
) -> str:
    layer, _, half = name.removeprefix("transformer.").partition(".lora_")
    weight: Any = getattr(layers.get(layer), "weight", None)
    if not name.startswith("transformer.") or weight is None or weight.ndim < 2:
        return NOT_THERE
    shapes = {
        "A.weight": (tensor.shape[1:], weight.shape[1:]),
        "B.weight": (tensor.shape[:1], weight.shape[:1]),
    }
    if half in shapes:
        given, wanted = shapes[half]
        partner = f"transformer.{layer}.lora_{'BA'[half[0] == 'B']}.weight"
        if given != wanted:
            return SHAPE
        return "matched" if partner in tensors else HALF
    if half not in ("B.bias", "magnitude_vector"):
        return NOT_THERE
    if tensor.shape != weight.shape[:1]:
        return SHAPE if half == "magnitude_vector" else NOT_THERE
    pair = f"transformer.{layer}.lora_B.weight"  # peft reads neither without it
    return "matched" if pair in tensors else HALF


def _product_fit(parts: Parts, layer: nn.Module | None) -> str:
    if not isinstance(layer, nn.Linear):
        return NOT_THERE
    try:
        shape = _product({name: tensor.to("meta") for name, tensor in parts.items()}).shape
    except KeyError:
        return HALF
    except (RuntimeError, ValueError):
        return SHAPE
    return "matched" if shape == layer.weight.shape else SHAPE


def _product(parts: Parts) -> Tensor:
    """The change of a weight that a LoKr or LoHa stands for, without its alpha."""
    if any(name in HADAMARD for name in parts):
        return (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    factors = [
        parts[name] if name in parts else parts[f"{name}_a"] @ parts[f"{name}_b"]
        for name in ("lokr_w1", "lokr_w2")
    ]
    return torch.kron(*factors)


def rank_of(parts: Parts) -> int | None:
    """The rank of a LoKr or LoHa that its alpha is divided by; None: of none of its factors."""
    for name in ("hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if name in parts:
            return len(parts[name])
    return None


def _magnitudes(scale: Tensor) -> Tensor:
    """The lengths of a DoRA as peft has them, one for each output, where they are of outputs."""
    return scale.flatten() if scale.ndim > 1 and scale[:, :1].numel() == scale.numel() else scale
