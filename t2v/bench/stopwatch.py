"""The measures of one run: milliseconds, FLOP, peak memory; and the best rate of the device."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

MIB = 2**20

Run = Callable[[], Any]


def seconds(run: Run, device: torch.device) -> float:
    """The seconds of one run, to the end of what it started on the device."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def count_flop(run: Run) -> int:
    """FLOP of the matrix products, convolutions and attention in one run."""
    with FlopCounterMode(display=False, custom_mapping=_flop_formulas()) as counter:
        run()
    return counter.get_total_flops()


def _flop_formulas() -> dict[Any, Callable[..., int]]:
    # kernels that only CPUs use and torch's counter does not know; it calls these with shapes
    def linear(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * prod(x) * weight[0]

    def convolution(
        x: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
    ) -> int:
        return 2 * prod(out_shape) * prod(weight[1:])

    def attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def attention_backward(grad: Sequence[int], *given: Any, **__: Any) -> int:
        q, k, v = given[:3]
        return sdpa_backward_flop_count(grad, q, k, v)

    return {
        torch.ops.mkldnn._linear_pointwise: linear,
        torch.ops.aten.mkldnn_convolution: convolution,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }


@dataclass(frozen=True)
class Probe:
    """Work of one kind at the best rate of a device: what utilisation is measured by."""

    run: Run
    flop: float


@torch.no_grad()
def product_probe(device: torch.device, dtype: torch.dtype) -> Probe:
    """A square product of `dtype`, on a CPU by the faster one of torch's two ways to it.

    MKL, which `F.linear` takes in fp32, runs at half speed on some processors; oneDNN does not.
    """
    size = 8192 if device.type == "cuda" else 1024
    x, weight = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    x, weight = x.to(device, dtype), weight.to(device, dtype)
    ways: list[Run] = [lambda: F.linear(x, weight)]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        onednn = torch.ops.mkldnn._linear_pointwise
        ways.append(lambda: onednn(x, weight, None, "none", [], ""))
    return Probe(_fastest(ways, device), 2 * size**3)


@torch.no_grad()
def convolution_probe(device: torch.device, dtype: torch.dtype) -> Probe:
    """A 3x3x3 convolution of a video, in the layout that is the fastest."""
    channels, (t, h, w) = (256, (9, 64, 64)) if device.type == "cuda" else (64, (5, 48, 48))
    random, layout = torch.Generator().manual_seed(0), torch.channels_last_3d
    x = torch.randn(2, channels, t, h, w, generator=random).to(device, dtype)
    weight = torch.randn(channels, channels, 3, 3, 3, generator=random).to(device, dtype)
    x, weight = x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
    flop = 2 * x.numel() * channels * 27
    return Probe(lambda: F.conv3d(x, weight, padding=1), flop)


def _fastest(ways: Sequence[Run], device: torch.device) -> Run:
    for way in ways:
        way()
    return min(ways, key=lambda way: min(seconds(way, device) for _ in range(3)))


def peak_memory(run: Run, device: torch.device) -> float | None:
    """MiB that one run takes at its peak above what was held before; its result counts.

    On a GPU what torch allocates, on a CPU the resident memory of the process. None where the
    system keeps no peak that can be reset (anything but Linux).
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - held) / MIB
    if sys.platform != "linux":
        return None
    with suppress(AttributeError):  # glibc keeps freed memory, which would hide the rise
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: `man proc_pid_clear_refs`
    held = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - held) / MIB


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
