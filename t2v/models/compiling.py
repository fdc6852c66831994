"""The compiler that torch needs, and blocks that are compiled."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Literal

import torch
from torch import nn

from t2v.errors import UserError

Mode = Literal["default", "reduce-overhead", "max-autotune"]


def check_compiler(device: torch.device, mode: Mode = "default") -> None:
    """Check that torch can compile for `device`.

    Raises:
        UserError: what torch compiles with is not here, or the mode is not one of the device.
    """
    if mode != "default" and device.type != "cuda":
        raise UserError(
            f"compile_mode={mode} device={device}: CUDA graphs and the search for the fastest "
            "kernels are for a GPU. Leave compile_mode out."
        )
    if device.type == "cuda":
        missing = "" if find_spec("triton") else "the package triton"
    else:
        found = any(map(shutil.which, ("c++", "g++", "clang++")))
        missing = "" if found else "a C++ compiler, such as g++"
    if missing:
        raise UserError(
            f"compile=true: torch compiles with {missing}, which is not installed. Install it, or "
            "leave compile out."
        )


def compile_each(blocks: Iterable[nn.Module], mode: Mode, backend: str = "inductor") -> None:
    """Have each block compiled when it is first called, as one graph for each shape.

    Equal blocks share what is compiled, and names of weights stay. A shape has a graph of its own,
    whatever came before it, so that a resumed run computes what it would have computed.
    """
    # at most so many shapes of batches, with and without gradient, in training and not
    torch._dynamo.config.recompile_limit = 64
    way = None if mode == "default" else mode
    for block in blocks:
        block.compile(fullgraph=True, dynamic=False, mode=way, backend=backend)
