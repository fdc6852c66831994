"""The number format in which this machine computes faster."""

from __future__ import annotations

import torch
from torch import Tensor

from t2v.models.kernels import products
from t2v.models.kernels.choice import Candidates, chosen, is_auto


def faster_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where autocast to it makes training faster on `device`, else float32.

    A GPU says whether it has bf16. On a CPU a linear layer, forward and backward, is timed once a
    machine; with plain kernels nothing is timed, and the answer is bf16, the default of earlier
    versions.
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    if device.type != "cpu" or not is_auto():
        return torch.bfloat16
    name = chosen("precision", torch.bfloat16, True, _candidates)
    return torch.bfloat16 if name == "bf16" else torch.float32


def _candidates(dtype: torch.dtype, grad: bool) -> Candidates:
    x, weight, bias = products.inputs(torch.float32, True)

    def run(halved: bool) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", dtype, enabled=halved):
            y = products.linear(x, weight, bias)
        return (y, *torch.autograd.grad(y, (x, weight), y.detach()))

    return {"fp32": lambda: run(False), "bf16": lambda: run(True)}
