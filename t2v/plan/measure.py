"""Measures: the rates of the device at hand, and real steps in a fresh process each."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t2v.bench.stopwatch import MIB, peak_memory
from t2v.errors import UserError
from t2v.models.device import pick_device
from t2v.models.layers import Linear
from t2v.plan.figures import Measured
from t2v.plan.shapes import Target
from t2v.plan.trace import Rates
from t2v.plan.work import Workload
from t2v.plan.workload import build
from t2v.training.engine.example import Size

MOST_TURNS, ENOUGH_SECONDS = 10, 10.0
PROBE = {"cpu": 1024, "cuda": 8192}  # rows and columns of the matrices, channels x tokens alike


def measure(target: Target, size: Size) -> Measured:
    """Build the work in a process of its own and run its phases in turns, of which the first warms
    up; the medians of the others count.

    On one CPU thread processor time counts, which other programs do not lengthen.

    Raises:
        UserError: the process died, which is what too little memory looks like.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imports are paid once, and shared
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        try:
            return pool.submit(_measure_here, target, size, torch.get_num_threads()).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"The process that measured {size} died, most likely out of memory. "
                "Plan without verify, or at a smaller size."
            ) from error


def _measure_here(target: Target, size: Size, threads: int) -> Measured:
    torch.set_num_threads(threads)
    device = pick_device(target.device)
    seconds: dict[str, list[float]] = {}

    def run() -> Workload:
        work = build(target, size)
        start, turns = time.monotonic(), 0
        while turns < MOST_TURNS and (turns < 3 or time.monotonic() - start < ENOUGH_SECONDS):
            for phase in work.phases:
                if turns and phase.once:
                    continue
                for name in phase.gone:
                    work.parts[name].to("meta")
                seconds.setdefault(phase.name, []).append(timed(phase.run, device))
            turns += 1
        return work

    peak = peak_memory(run, device)
    if peak is None:
        raise UserError("This system keeps no peak of memory that can be reset; Linux does.")
    medians = {name: statistics.median(took[1:] or took) for name, took in seconds.items()}
    return Measured(int(peak * MIB), medians)


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one run."""
    clock = time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    elif torch.get_num_threads() == 1:
        clock = time.process_time
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return clock() - start


def measured_rates(device: torch.device, dtype: torch.dtype, trains: bool) -> Rates:
    """Best of a few runs of a product, a convolution, an attention and an addition."""
    size = PROBE.get(device.type, PROBE["cuda"])
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    linear = Linear(size, size).to(device, dtype)
    tokens, heads = random(2 * size, size), random(1, 8, size, 64)
    video = random(2, 64, 5, 32, 32).contiguous(memory_format=torch.channels_last_3d)
    kernel = random(64, 64, 3, 3, 3)
    large = torch.zeros(2**24, device=device)
    small = torch.zeros(16, device=device)

    def best(run: Callable[[], Any], repeats: int = 4) -> float:
        return min(timed(run, device) for _ in range(repeats))

    def many() -> None:
        for _ in range(1000):
            small.add(1)

    with torch.set_grad_enabled(trains):
        matmul = 2 * tokens.numel() * size / best(lambda: linear(tokens))
    with torch.no_grad():
        output = F.conv3d(video, kernel, padding=1)
        flop = 2 * output.numel() * kernel[0].numel()
        return Rates(
            matmul=matmul,
            convolution=flop / best(lambda: F.conv3d(video, kernel, padding=1)),
            attention=4
            * heads.numel()
            * size
            / best(lambda: F.scaled_dot_product_attention(heads, heads, heads)),
            memory=3 * large.nbytes / best(lambda: torch.add(large, 1, out=large)) / 1.5,
            launch=best(many) / 1000,
        )
