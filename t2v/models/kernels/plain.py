"""The CPU kernels of earlier versions: faster than torch's own, by rules and not by timing."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`; fp32 inference on an AMD processor goes through oneDNN.

    torch uses MKL for fp32, which runs at half speed there; the results agree up to rounding.
    """
    if _linear_is_faster(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _linear_is_faster(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and type(weight) is nn.Parameter  # a quantised or sharded weight has its own product
        and not torch.is_grad_enabled()  # the kernel has no gradient
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and mkl_is_slow()
    )


@functools.cache
def mkl_is_slow() -> bool:
    """True on an AMD processor under MKL, if torch's private oneDNN product is available.

    Decided by the vendor and not by timing, so that one machine always gives the same bits.
    """
    cpuinfo = Path("/proc/cpuinfo")
    vendor = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    if "AuthenticAMD" not in vendor or not torch.backends.mkl.is_available():
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return False
    x, weight = torch.linspace(-1, 1, 256).reshape(4, 64), torch.linspace(1, -1, 512).reshape(8, 64)
    try:
        product = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    except (RuntimeError, TypeError):  # private: its arguments may change
        return False
    return torch.allclose(product, F.linear(x, weight), rtol=1e-5, atol=1e-5)


def conv3d(x: Tensor, layer: nn.Conv3d) -> Tensor:
    """The convolution of `layer`, see `convolution`."""
    assert isinstance(layer.padding, tuple) and layer.padding_mode == "zeros"
    return convolution(
        x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...] = (1, 1, 1),
    padding: tuple[int, ...] = (0, 0, 0),
    dilation: tuple[int, ...] = (1, 1, 1),
    groups: int = 1,
) -> Tensor:
    """`F.conv3d`; one fp32 video on a CPU goes through oneDNN.

    For a short one torch picks its `Slow3d`, which is 15 times slower.
    """
    faster = (
        not torch.compiler.is_compiling()  # first: compilers cannot see through the next lines
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and len(x) == 1
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )
    if faster:
        return torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, groups)
    return F.conv3d(x, weight, bias, stride, padding, dilation, groups)
