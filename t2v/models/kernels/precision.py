"""The number format in which this machine computes faster."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from t2v.config.data import Precision
from t2v.models.kernels import products
from t2v.models.kernels.choice import Candidates, chosen, is_auto


def picked_precision(name: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """`fp32` or `bf16` as named; of `auto` the one that `faster_dtype` finds."""
    if name != "auto":
        return name
    return "bf16" if faster_dtype(device) == torch.bfloat16 else "fp32"


def faster_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where autocast to it makes training faster on `device`, else float32.

    A GPU says whether it has bf16, and one that is not here is taken to have it. On a CPU a linear
    layer, forward and backward, is timed once a machine. With plain kernels nothing is timed: the
    answer is bf16, the default of earlier versions, where the processor has what oneDNN needs for
    it. Others compute it ten times as slowly as float32.
    """
    if device.type == "cuda":
        is_here = torch.cuda.is_available()
        lacks_bf16 = is_here and not torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.float32 if lacks_bf16 else torch.bfloat16
    if device.type != "cpu":
        return torch.bfloat16
    if not is_auto():
        return torch.bfloat16 if has_half_products() else torch.float32
    name = chosen("precision", torch.bfloat16, True, _candidates)
    return torch.bfloat16 if name == "bf16" else torch.float32


def has_half_products() -> bool:
    """True where oneDNN has products of bfloat16 for this processor."""
    is_built = torch.backends.mkldnn.is_available()
    return is_built and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _candidates(dtype: torch.dtype, grad: bool) -> Candidates:
    x, weight, bias = products.inputs(torch.float32, True)

    def run(halved: bool) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", dtype, enabled=halved):
            y = products.linear(x, weight, bias)
        return (y, *torch.autograd.grad(y, (x, weight), y.detach()))

    return {"fp32": lambda: run(False), "bf16": lambda: run(True)}
