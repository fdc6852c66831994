"""The measures of one run: milliseconds, FLOP, peak memory; and the best rate of the device."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

MIB = 2**20

Run = Callable[[], Any]


def milliseconds(run: Run, device: torch.device, warmup: int, repeats: int) -> dict[str, float]:
    """Median, least and most of `repeats` runs, after `warmup` that do not count."""
    for _ in range(warmup):
        run()
    times = sorted(1e3 * _seconds(run, device) for _ in range(repeats))
    return {"ms_median": statistics.median(times), "ms_min": times[0], "ms_max": times[-1]}


def _seconds(run: Run, device: torch.device) -> float:
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

    return {
        torch.ops.mkldnn._linear_pointwise: linear,
        torch.ops.aten.mkldnn_convolution: convolution,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    }


def gemm_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate this device reaches for a square product: what utilisation is measured by.

    On a CPU both of torch's paths are tried: MKL, which `F.linear` takes in fp32, runs at half
    speed on AMD; oneDNN does not.
    """
    size = 8192 if device.type == "cuda" else 2048
    x, weight = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    x, weight = x.to(device, dtype), weight.to(device, dtype)
    paths: list[Run] = [lambda: F.linear(x, weight)]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        onednn = torch.ops.mkldnn._linear_pointwise
        paths.append(lambda: onednn(x, weight, None, "none", [], ""))
    best = min(milliseconds(path, device, warmup=1, repeats=3)["ms_min"] for path in paths)
    return 2 * size**3 / best / 1e6


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
