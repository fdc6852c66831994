"""GGUF files: linear layers in blocks of a few bits a weight, with a scale for each.

They stay so in the memory, and each layer is made of its bits before it is used (diffusers). Read
it only where the package gguf is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import GGUFQuantizationConfig
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter, dequantize_gguf_tensor
from gguf import GGUFReader  # type: ignore[import-not-found]
from torch import nn


def names(file: Path) -> list[str]:
    """The names of a file's tensors."""
    return [tensor.name for tensor in GGUFReader(file).tensors]


def reading(dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of `from_single_file` for such a file, whose layers compute in `dtype`."""
    return {"quantization_config": GGUFQuantizationConfig(dtype), "torch_dtype": dtype}


def is_in_blocks(weight: nn.Parameter) -> bool:
    """True of a weight that is kept as the file has it."""
    return isinstance(weight, GGUFParameter)


@torch.no_grad()
def unpack_others(network: nn.Module, dtype: torch.dtype) -> None:
    """Take weights out of their blocks that are of no layer which computes with them so."""
    for layer in network.modules():
        for name, weight in list(layer._parameters.items()):
            if isinstance(weight, GGUFParameter) and not isinstance(layer, GGUFLinear):
                values = dequantize_gguf_tensor(weight).to(dtype)
                layer._parameters[name] = nn.Parameter(values, requires_grad=False)


def move_layers(source: nn.Module, target: nn.Module) -> None:
    """Put the layers that compute with blocks into another network, under the same names."""
    for name, layer in list(source.named_modules()):
        if isinstance(layer, GGUFLinear):
            target.set_submodule(name, layer)
