"""What is kept of tensors and pictures, and how two runs of a command are compared."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

HERE = Path(__file__).parent
TOLD = re.compile(r"[0-9a-f]{16}( -?\d\.\d{4}e[+-]\d\d){3}")


def told(given: dict[str, torch.Tensor]) -> dict[str, str]:
    """Of each tensor a hash, and three numbers that nearly equal tensors have nearly equal.

    These are the root of the mean square, and two sums that weigh every value.
    """
    found = {}
    for name, tensor in given.items():
        hashed = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        values = tensor.double().flatten().numpy()
        places = np.arange(len(values))
        sums = (values @ np.cos(turn * places) / math.sqrt(len(values)) for turn in (0.3, 1.7))
        size = math.sqrt(np.square(values).mean())
        found[name] = " ".join([hashed.hexdigest()[:16], *(f"{x:.4e}" for x in (size, *sums))])
    return found


def picture(path: str) -> dict[str, Any]:
    """The pixels of a picture: size, hash, and a small copy in bytes."""
    with Image.open(path) as image:
        shown = image.convert("RGB")
        small = np.asarray(shown.resize((8, 4), Image.Resampling.BOX))
        hashed = hashlib.sha256(shown.tobytes()).hexdigest()[:16]
        return {
            "size": shown.size,
            "sha256": hashed,
            "small": small.astype(float).flatten().tolist(),
        }


@cache
def arithmetic() -> str:
    """A hash of what this machine and its libraries compute, one thread alone."""
    names = ("torch", "numpy", "diffusers", "transformers", "peft", "av", "pillow", "scikit-learn")
    info = Path("/proc/cpuinfo")
    vendor = re.search(r"vendor_id.*", info.read_text() if info.exists() else "")
    hashed = hashlib.sha256(" ".join(version(name) for name in names).encode())
    # by these kernels are chosen
    hashed.update(f"{torch.backends.cpu.get_cpu_capability()} {vendor and vendor[0]}".encode())
    random = torch.Generator().manual_seed(0)
    for halved in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            for result in _computed(random):
                hashed.update(result.detach().float().contiguous().numpy().tobytes())
    place = np.linspace(-9, 9, 4096, dtype=np.float32).reshape(64, 64)
    for array in (np.exp(place), np.sin(place), place @ place, np.fft.rfft2(place)):
        hashed.update(np.ascontiguousarray(array).tobytes())
    with av.open(str(HERE / "footage" / "film-0.mp4")) as file:
        for frame in file.decode(video=0):
            hashed.update(frame.to_ndarray(format="rgb24").tobytes())
    return hashed.hexdigest()


def _computed(random: torch.Generator) -> Iterator[torch.Tensor]:
    """Products, convolutions, attention and functions, and their gradients, in the sizes of use."""
    for rows, width, out in ((4, 32, 64), (96, 192, 512), (80, 384, 1152), (333, 1152, 384)):
        x = torch.randn(rows, width, generator=random, requires_grad=True)
        weight = torch.randn(out, width, generator=random, requires_grad=True)
        y = F.linear(F.layer_norm(F.gelu(x, approximate="tanh"), (width,)), weight)
        yield y
        yield from torch.autograd.grad(F.silu(y).float().square().mean(), (x, weight))
    for channels, out, side in ((48, 96, 16), (16, 32, 8), (192, 192, 8)):
        x = torch.randn(2, channels, 5, side, side, generator=random)
        x = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        weight = torch.randn(out, channels, 3, 3, 3, generator=random, requires_grad=True)
        y = F.conv3d(x, weight, padding=(0, 1, 1))
        yield y
        yield from torch.autograd.grad(y.float().square().mean(), (x, weight))
    for tokens, heads, width in ((12, 2, 16), (80, 6, 64), (320, 6, 64)):
        q, k, v = torch.randn(3, 2, heads, tokens, width, generator=random)
        yield F.scaled_dot_product_attention(q, k, v)
    place = torch.linspace(-9, 9, 10_001)
    yield from (place.exp(), place.sin(), place.sigmoid(), place.softmax(0), place.erf())
    yield from (place.abs().log1p(), place.abs().rsqrt(), place.cumsum(0), place.std()[None])


# How far numbers may be off on another processor. With this one's instructions held to AVX2
# (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA, MKL_ENABLE_INSTRUCTIONS) losses and scores moved by 1 %
# at most, differences of scores and plans by 4 %, pixels by one level. Sums over a weight moved by
# up to half of its size, its size by 14 %: the first steps of Muon and Adam go by the signs of
# gradients that are nearly zero.
RELATIVE, ABSOLUTE = 0.1, 0.02
SIZE_OF_WEIGHTS, SUM_OF_WEIGHTS = 0.3, 1.0
HASH = re.compile(r"\b[0-9a-f]{8,}\b")


def assert_unchanged(now: Any, then: Any, *, exact: bool, where: str = "") -> None:
    """See that all of `then` is in `now`: every bit, or what is not a number and numbers nearly."""
    if isinstance(then, dict):
        for name, value in then.items():
            if exact or not HASH.search(name):
                assert name in now, f"{where}: {name} is gone"
                assert_unchanged(now[name], value, exact=exact, where=f"{where}/{name}")
    elif isinstance(then, list):
        assert len(now) == len(then), where
        for number, (one, other) in enumerate(zip(now, then, strict=True)):
            assert_unchanged(one, other, exact=exact, where=f"{where}/{number}")
    else:
        is_same = type(now) is type(then) and (now == then or not (exact or is_far(now, then)))
        assert is_same, f"{where}: {now}, and was {then}"


def is_far(now: Any, then: Any) -> bool:
    """Are two values of different text, or numbers further apart than processors are?"""
    if isinstance(then, float):
        return now != pytest.approx(then, rel=RELATIVE, abs=ABSOLUTE)
    if isinstance(then, str) and TOLD.fullmatch(then):
        (size, *sums), (was, *wanted) = (map(float, each.split()[1:]) for each in (now, then))
        same_size = size == pytest.approx(was, rel=SIZE_OF_WEIGHTS)
        return not (same_size and sums == pytest.approx(wanted, rel=0, abs=SUM_OF_WEIGHTS * was))
    return not isinstance(then, str) or HASH.sub("", now) != HASH.sub("", then)
