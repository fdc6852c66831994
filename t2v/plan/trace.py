"""Runs the real code on tensors without content and counts bytes, FLOP and seconds."""

from __future__ import annotations

import logging
import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from t2v.models.diffusion import noise_schedule
from t2v.models.layers import sincos_table

CACHED = sincos_table, noise_schedule  # tables of the models that are computed once


@dataclass(frozen=True)
class Rates:
    """The rates of a device."""

    matmul: float  # FLOP/s
    convolution: float
    attention: float
    memory: float  # bytes/s
    launch: float = 0.0  # seconds that any operation takes at least

    def seconds(self, kind: str, flop: int, bytes_: int) -> float:
        """The roofline: an operation takes as long as its arithmetic or its memory traffic."""
        return max(flop / getattr(self, kind), bytes_ / self.memory) + self.launch


UNKNOWN = Rates(1, 1, 1, 1)  # of a device that is not here
Roofline = dict[int, tuple[float, float]]  # FLOP and bytes of the operations of one intensity
NO_ARITHMETIC = -1000  # the intensity of what only moves bytes
FINE = 4  # intensities, FLOP a byte, that are told apart between one and its double


def seconds_on(roofline: Roofline, operations: float, rates: Rates) -> float:
    """Seconds on a device, all of whose arithmetic goes at the rate of matrix products."""
    work = (max(flop / rates.matmul, moved / rates.memory) for flop, moved in roofline.values())
    return sum(work) + operations * rates.launch


@dataclass
class Usage:
    """The memory, FLOP and seconds of a phase."""

    peak: int = 0  # bytes held at the worst moment
    flop: int = 0
    seconds: float = 0.0
    operations: int = 0
    roofline: Roofline = field(default_factory=dict)


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward(grad: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)


_CPU_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
# torch's table does not list the attention of CPUs
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _CPU_FLASH: _attention,
    _CPU_FLASH_BACKWARD: _attention_backward,
}


class Trace(TorchDispatchMode):
    """Counts every operation inside it; bytes are those of storages that are alive.

    A storage counts from the operation that made it until nothing refers to it, which is when an
    allocator gets it back. The scratch memory of kernels is not counted.
    """

    def __init__(self, rates: Rates) -> None:
        super().__init__()
        self.rates, self.live, self.usage = rates, 0, Usage()
        self._storages: set[int] = set()

    @contextmanager
    def phase(self) -> Iterator[Usage]:
        """Count the usage inside; the peak includes what was held before."""
        self.usage = Usage(peak=self.live)
        yield self.usage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # half of all calls, and no work
            return func(*args, **kwargs)
        if func is torch.ops.aten.nonzero.default:  # as many as there can be: masks hide nothing
            (mask,) = args
            func, args = torch.ops.aten.zeros.default, ((mask.numel(), mask.dim()),)
            kwargs = {"dtype": torch.long, "device": mask.device}
        if func is torch.ops.aten.mkldnn_convolution.default:  # it knows no tensor without content
            x, weight, bias, padding, stride, dilation, groups = args
            func, args = torch.ops.aten.convolution.default, (x, weight, bias, stride, padding)
            args = (*args, dilation, False, [0] * len(padding), groups)
        out = func(*args, **kwargs)
        made = [each for each in tree_iter(out) if isinstance(each, Tensor)]
        fresh = [self._hold(each) for each in made]
        self.usage.peak = max(self.usage.peak, self.live)
        if any(fresh) or func._schema.is_mutable:  # a view costs nothing
            self._count(func, args, kwargs, out, made)
        return out

    def _hold(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return False
        self._storages.add(key)
        self.live += storage.nbytes()
        weakref.finalize(storage, self._drop, key, storage.nbytes())
        return True

    def _drop(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.live -= size

    def _count(
        self, func: Any, args: tuple[Any, ...], kwargs: Any, out: Any, made: list[Tensor]
    ) -> None:
        name, formula = func._schema.name, _FORMULAS.get(func.overloadpacket)
        flop = formula(*args, **kwargs, out_val=out) if formula else 0
        kind = "matmul"
        if "convolution" in name:
            kind = "convolution"
        elif "attention" in name:
            kind = "attention"
        read = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
        moved = sum(each.nbytes for each in (*read, *made))
        self.usage.flop += flop
        self.usage.seconds += self.rates.seconds(kind, flop, moved)
        self.usage.operations += 1
        intensity = round(FINE * math.log2(flop / moved)) if flop and moved else NO_ARITHMETIC
        before = self.usage.roofline.get(intensity, (0, 0))
        self.usage.roofline[intensity] = before[0] + flop, before[1] + moved


@contextmanager
def traced(rates: Rates) -> Iterator[Trace]:
    """Inside, every tensor made has a shape and no content, and the trace counts."""
    _forget_cached_tensors()
    quiet = logging.root.manager.disable
    logging.disable(logging.INFO)  # the command logs these lines when it is run
    try:
        with (
            warnings.catch_warnings(),
            FakeTensorMode(allow_non_fake_inputs=True),
            Trace(rates) as run,
        ):
            # the optimizer's assertion that two views share memory holds here too
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
            yield run
    finally:
        logging.disable(quiet)
        _forget_cached_tensors()


def _forget_cached_tensors() -> None:
    # a cached table must not outlive the trace, in which it has no content
    for table in CACHED:
        table.cache_clear()
