"""Adapters in a transformer: of LoRA and DoRA by diffusers, of products and changes by layer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.loaders.lora_pipeline import _LOW_CPU_MEM_USAGE_DEFAULT_LORA
from diffusers.utils import set_adapter_layers, set_weights_and_activate_adapters
from peft import LoHaConfig, LoKrConfig, PeftConfig
from peft.tuners.loha.layer import Linear as LoHaLinear
from peft.tuners.lokr.layer import Linear as LoKrLinear
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.lora_contents import (
    DOWN,
    HADAMARD,
    LORA_BIAS,
    MAGNITUDE,
    UP,
    LoRAContents,
    Parts,
    layer_of,
    rank_of,
)


class ChangedLayer(nn.Module, BaseTunerLayer):
    """A layer with changes of its weight and bias, each by an adapter of its own.

    The output of such a layer is linear in both, so a change is a second layer whose parameters are
    the change, and whose output is added. The layer beneath stays as it was, also where its weights
    are quantized or kept elsewhere.
    """

    adapter_layer_names = ("changes",)
    other_param_names = ("scaling", "r")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.changes = nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self.r: dict[str, int] = {}  # diffusers counts adapters by it
        self.merged_adapters: list[str] = []
        self.cast_input_dtype_enabled = True  # diffusers' casting of layers switches it off

    def add(self, adapter: str, change: Parts) -> None:
        """Add `weight` and `bias`; one that is not given stays as it is."""
        layer = copy.deepcopy(self.get_base_layer())
        for name, parameter in layer.named_parameters():
            given = change.get(name, torch.zeros(())).to(parameter).expand_as(parameter).clone()
            setattr(layer, name, nn.Parameter(given, requires_grad=False))
        self.changes[adapter] = layer
        self.scaling[adapter], self.r[adapter] = 1.0, 1

    def set_scale(self, adapter: str, scale: float) -> None:
        if adapter in self.scaling:
            self.scaling[adapter] = scale

    def scale_layer(self, scale: float) -> None:
        for adapter in self._live():
            self.scaling[adapter] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        for adapter in self._live():
            self.scaling[adapter] = 1.0 if scale is None else self.scaling[adapter] / scale

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter in self.changes:
                self._shift(adapter, self.scaling[adapter])
                self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        while self.merged_adapters:
            adapter = self.merged_adapters.pop()
            self._shift(adapter, -self.scaling[adapter])

    def _live(self) -> list[str]:
        return [each for each in self.active_adapters if each in self.changes]

    @torch.no_grad()
    def _shift(self, adapter: str, scale: float) -> None:
        base = dict(self.get_base_layer().named_parameters())
        for name, change in self.changes[adapter].named_parameters():
            base[name].add_(change, alpha=scale)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for adapter in self._live():
            change = self.changes[adapter](x, *args, **kwargs)
            result = result + self.scaling[adapter] * change.to(result.dtype)
        return result


def put_in(
    found: LoRAContents,
    transformer: ModelMixin,
    adapter: str,
    pipeline: DiffusionPipeline | None,
    metadata: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Add everything in a file as one adapter of a transformer.

    Args:
        found: what of it fits the transformer.
        metadata: the rank and alpha stored in the file.
        options: of diffusers' `load_lora_adapter`.

    Raises:
        UserError: some of it did not arrive; the adapter is taken off again.
    """
    options.setdefault("low_cpu_mem_usage", _LOW_CPU_MEM_USAGE_DEFAULT_LORA)
    found = _evened(found)
    if found.lora:
        with warnings.catch_warnings():  # that there are several adapters, which is meant
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            # names that end alike; what arrives is counted below
            warnings.filterwarnings("ignore", "While injecting the PEFT adapters", RuntimeWarning)
            transformer.load_lora_adapter(
                found.lora, adapter_name=adapter, metadata=metadata, _pipeline=pipeline, **options
            )
    for layer, parts in found.products.items():
        _add_product(transformer, layer, adapter, parts)
    for layer, change in found.changes.items():
        # they are as small as norms, and stay exact where layers are cast to fewer bits
        skipped = getattr(transformer, "_skip_layerwise_casting_patterns", None) or []
        transformer._skip_layerwise_casting_patterns = [*skipped, r"\.changes\."]
        changed = _wrapped(transformer, layer, ChangedLayer)
        changed.add(adapter, change)
        changed.set_adapter([adapter])
    config = LoKrConfig if found.products else PeftConfig
    adapters = getattr(transformer, "peft_config", {})
    transformer.peft_config = {**adapters, adapter: adapters.get(adapter) or config()}
    transformer._hf_peft_config_loaded = True
    expected = {name.removeprefix("transformer.") for name in found.lora}
    expected |= {f"{n}.{part}" for n, parts in found.products.items() for part in parts}
    expected |= {f"{n}.{part}" for n, parts in found.changes.items() for part in parts}
    missing = {n for n in expected if not n.endswith(".alpha")} - set(arrived(transformer, adapter))
    if missing:
        transformer.delete_adapters(adapter)
        raise UserError(
            f"Of {len(expected)} tensors of the LoRA {len(missing)} did not arrive in "
            f"{type(transformer).__name__} ({', '.join(sorted(missing)[:3])}). Take them out of "
            "the file, or load it with the tool that made it."
        )


def _evened(found: LoRAContents) -> LoRAContents:
    """The same where all layers of a LoRA have a bias, or a magnitude, once one has: peft gives
    one to all, and leaves those that the file lacks without values."""
    lora, products, changes = dict(found.lora), dict(found.products), dict(found.changes)
    ups = [name for name in lora if name.endswith(UP[0])]
    is_dora = any(name.endswith(MAGNITUDE) for name in lora)
    biases = [name for name in lora if name.endswith(LORA_BIAS)]
    for name in ups if biases and not is_dora else ():
        lora.setdefault(name.replace(UP[0], LORA_BIAS), lora[name].new_zeros(len(lora[name])))
    for name in biases if is_dora else ():  # peft has a bias of LoRA alone
        layer = layer_of(name)
        changes[layer] = {**changes.get(layer, {}), "bias": lora.pop(name)}
    for name in ups if is_dora else ():
        if name.replace(UP[0], MAGNITUDE) not in lora:  # a product of one, which is the same
            parts = {"lokr_w1": lora[name].new_ones(1, 1), "lokr_w2_a": lora.pop(name)}
            parts["lokr_w2_b"] = lora.pop(name.replace(UP[0], DOWN[0]))
            products[layer_of(name)] = parts
    return replace(found, lora=lora, products=products, changes=changes)


def arrived(transformer: ModelMixin, adapter: str) -> Iterator[str]:
    """The names of an adapter's tensors in the layers of a transformer, as `LoRAContents` has them.

    Counted in the layers that peft made, not in what was given to them.
    """
    for name, layer in transformer.named_modules():
        if not isinstance(layer, BaseTunerLayer):
            continue
        name = name.replace(".base_layer", "")
        for part in layer.adapter_layer_names:
            held = getattr(layer, part)
            if adapter not in held:
                continue
            if isinstance(held[adapter], Tensor):
                yield f"{name}.{part}"
                continue
            for parameter, _ in held[adapter].named_parameters():
                end = f"{part}.{parameter}"
                end = parameter if part == "changes" else end
                yield f"{name}.{end.removesuffix('.weight') if 'magnitude' in part else end}"


def uses_weights(transformer: nn.Module) -> set[str]:
    """The kinds of adapters in a network that compute with weights outside of a layer's call."""
    found = set()
    for layer in transformer.modules():
        if isinstance(layer, LoKrLinear):
            found.add("LoKr")
        elif isinstance(layer, LoHaLinear):
            found.add("LoHa")
        elif len(getattr(layer, "lora_magnitude_vector", ())):
            found.add("DoRA")
    return found


def activate(transformer: ModelMixin, scales: dict[str, float]) -> None:
    """Let the named adapters act, each at its scale, and no others; at 0 no bit changes."""
    live = {name: scale for name, scale in scales.items() if scale}
    set_adapter_layers(transformer, enabled=bool(live))
    if live:
        set_weights_and_activate_adapters(transformer, list(live), list(live.values()))


def _add_product(transformer: ModelMixin, layer: str, adapter: str, parts: Parts) -> None:
    """Add a LoKr or LoHa to a layer, by peft's own class of it, with the factors of the file."""
    kind, config = LoKrLinear, LoKrConfig(r=1, alpha=1)
    if any(name in HADAMARD for name in parts):
        kind, config = LoHaLinear, LoHaConfig(r=1, alpha=1)
    rank = rank_of(parts)
    alpha = float(parts["alpha"]) if rank is not None and "alpha" in parts else float(rank or 1)
    found = _wrapped(transformer, layer, kind, adapter_name=adapter, config=config, r=1, alpha=1)
    if adapter not in found.r:
        found.update_layer(adapter, 1, 1, config=config)
    weight = found.get_base_layer().weight
    for name in found.adapter_layer_names:
        held = getattr(found, name)
        if adapter in held:
            del held[adapter]
        if name in parts:
            factor = parts[name].to(weight.device, weight.dtype)
            held[adapter] = nn.Parameter(factor, requires_grad=False)
    found.r[adapter], found.alpha[adapter] = rank or 1, alpha
    found.set_scale(adapter, 1.0)


def _wrapped(transformer: ModelMixin, name: str, kind: type[Any], **options: Any) -> Any:
    """The adapted layer of a kind at a name: the one that is there, or a new one around it."""
    parent = transformer.get_submodule(name.rpartition(".")[0])
    last = name.rpartition(".")[2]
    layer = each = getattr(parent, last)
    while isinstance(each, BaseTunerLayer):
        if type(each) is kind:
            return each
        each = each.base_layer
    made = kind(layer, **options)
    setattr(parent, last, made)
    return made
