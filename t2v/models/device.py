"""The device and number format of a network, its weights in aligned memory, and where that ends."""

import ctypes
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor, nn

from t2v.errors import UserError, shortened

T = TypeVar("T")
logger = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GIB = 2**30
ALIGNMENT = 64  # bytes; what torch's own CPU allocations start at


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA if available, else Apple's MPS, else the CPU.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        name = next((each for each, is_here in here.items() if is_here), "cpu")
    fault = f"device={shortened(name, 40)}: not available on this machine. Use auto or cpu."
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # a backend that is not installed may raise anything
        raise UserError(fault) from error
    # meta holds no values, and torch accepts any index for the one CPU
    if device.type == "meta" or (device.type == "cpu" and device.index):
        raise UserError(fault)
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of that name; `auto` is bf16 on a GPU and fp32 elsewhere."""
    return DTYPES[name if name != "auto" else "bf16" if device.type == "cuda" else "fp32"]


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of main memory on `device`, without waiting until it is there.

    It goes by pinned memory, which a copy to a GPU reads while the CPU goes on.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # as it is, where the loader has done it
    return tensor.to(device, non_blocking=device.type == "cuda")


def free_memory(device: torch.device) -> int | None:
    """Free bytes on `device`; None where the system does not report them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def check_memory(what: str, least: int, device: torch.device, instead: str) -> None:
    """Refuse work that cannot fit into memory before it begins.

    Args:
        what: the settings and their values; begins the message.
        least: bytes that it needs at least. It may need more; `t2v plan` estimates that.
        instead: what to do; ends the message.

    Raises:
        UserError: `device` has less.
    """
    free = free_memory(device)
    if free is not None and least > free:
        raise UserError(
            f"{what}: needs at least {least / GIB:,.0f} GiB of memory, but only "
            f"{free / GIB:,.1f} GiB are free. {instead}"
        )


class OutOfMemory(UserError):
    """The memory of the device, or of the machine, ended."""


def is_memory_error(error: Exception) -> bool:
    """Return whether `error` says that the memory of a device or of the machine ended."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)  # the second is oneDNN's, of a kernel that it has no memory to make
    return isinstance(error, RuntimeError) and (
        "allocate memory" in text or text == "could not create a primitive"
    )


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Raise `OutOfMemory` where the memory ends in the block.

    Args:
        what: the work; begins the message.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        raise OutOfMemory(
            f"{what} do not fit into the memory of this machine. Give offload=group, or ask for "
            "fewer frames or a smaller size; `t2v plan sample` tells what they take."
        ) from error


def trim() -> None:
    """Let the C library return freed memory to the system, where it is glibc.

    Between pieces of a video it would keep that of one and take more for the next.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)


def tiled_at_need(vae: Any, run: Callable[[], T]) -> T:
    """The result of `run`, which encodes or decodes; where the memory ends, tried again by tiles.

    Args:
        vae: goes on by tiles then; None, or one that cannot: there is no second try.
    """
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error) or not hasattr(vae, "enable_tiling") or vae.use_tiling:
            raise
    logger.warning("decoding does not fit into the memory: by tiles, which are blended")
    vae.enable_tiling()
    return run()


@torch.no_grad()
def ready(module: nn.Module) -> torch.device:
    """Return the device the module computes on; on a CPU, first move its weights to aligned memory.

    Weights read from safetensors have the alignment of the file. MKL and oneDNN sum in another
    order on unaligned memory, so a loaded model would differ in bits from the one that was saved.
    """
    device = get_module_execution_device(module)
    if device.type == "cpu":
        for weight in module.parameters():
            plain = type(weight) is nn.Parameter and weight.device.type == "cpu"
            if plain and weight.data_ptr() % ALIGNMENT:
                weight.data = weight.data.clone()
    return device


def execution_device(model: Any) -> torch.device:
    """The device that a model computes on, which is not the one that holds offloaded weights."""
    from diffusers.hooks.group_offloading import (  # most users of this file need no diffusers
        _get_group_onload_device,
        _is_group_offload_enabled,
    )

    if _is_group_offload_enabled(model):
        return _get_group_onload_device(model)
    hook = getattr(model, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return model.device if device is None else torch.device(device)
