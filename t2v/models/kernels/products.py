"""Linear layers: torch's product, oneDNN's, and oneDNN's on weights that are packed beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from t2v.models.kernels import plain
from t2v.models.kernels.choice import Candidates, chosen, is_auto, is_counted

# which gradients oneDNN computes besides the product itself: that of the input, of the weight
GRADIENTS = {
    "onednn": (True, True),
    "onednn_but_weight": (True, False),
    "onednn_forward": (False, False),
}
MOST_PACKED = 2**30  # bytes of packed weights, which are held beside the weights themselves


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`, by the fastest kernel of this machine; fp32 agrees to 1e-5 of the largest value,
    bf16 to the bit."""
    if not is_auto():
        return plain.linear(x, weight, bias)
    if not _applies(x, weight):
        return F.linear(x, weight, bias)
    grad = torch.is_grad_enabled()
    name = chosen("linear", x.dtype, grad, candidates)
    if name == "plain":
        return F.linear(x, weight, bias)
    if torch.compiler.is_compiling():
        return torch.ops.t2v.linear(x, weight, bias, name)
    if grad:
        return _Linear.apply(x, weight, bias, name)
    return _onednn(x, weight, bias, "linear")


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """GELU (tanh) of `F.linear`, in one pass where that is faster and nothing is to be learned.

    In bf16 one pass rounds once where two round twice, so it is the nearer one.
    """
    grad = torch.is_grad_enabled()  # the backward pass needs what enters GELU
    if not is_auto() or grad or not _applies(x, weight):
        return F.gelu(linear(x, weight, bias), approximate="tanh")
    if chosen("gelu", x.dtype, grad, gelu_candidates) == "plain":
        return F.gelu(linear(x, weight, bias), approximate="tanh")
    if torch.compiler.is_compiling():
        return torch.ops.t2v.linear_gelu(x, weight, bias)
    return _onednn(x, weight, bias, "gelu")


def _applies(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and type(weight) is nn.Parameter  # a quantised or sharded weight has its own product
        and not torch.is_autocast_enabled("cpu")  # bf16 products have the same bits either way
        and (torch.compiler.is_compiling() or not is_counted())
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    attribute, algorithm = ("gelu", "tanh") if kind == "gelu" else ("none", "")
    x = x if x.mT.is_contiguous() else x.contiguous()  # rows apart take it a thousand times longer
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, attribute, [], algorithm)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    packs = _packs.get()
    if packs is not None and chosen(kind, x.dtype, False, CANDIDATES[kind]) == "packed":
        weight = packs.of(weight)
    return _product(x, weight, bias, kind)


class _Linear(torch.autograd.Function):
    """oneDNN's product, with gradients by oneDNN or by torch, as `GRADIENTS` has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, name: str) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.name = name
        return _product(x, weight, bias, "linear")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return *_gradients(grad, x, weight, ctx.name, ctx.needs_input_grad), None


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, name: str, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    rows, inputs = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
    of_x_by_onednn, of_weight_by_onednn = GRADIENTS[name]
    of_x = of_weight = None
    if needed[0]:
        of_x = _product(grad, weight.t(), None, "linear") if of_x_by_onednn else grad @ weight
    if needed[1] and of_weight_by_onednn:
        of_weight = _product(rows.t(), inputs.t(), None, "linear")
    elif needed[1]:
        of_weight = rows.t() @ inputs
    return of_x, of_weight, rows.sum(0) if needed[2] else None


class _Packs:
    """Weights in oneDNN's own order, each as long as it is what it was when it was packed."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[Tensor, int, int, Tensor]] = {}
        self.bytes = 0

    def of(self, weight: Tensor) -> Tensor:
        """The packed weight, or the weight itself where it changed or the room is full."""
        if weight.is_inference():  # it keeps no count of its changes
            return weight
        state = weight._version, weight.data_ptr()
        if id(weight) in self.held:
            _, *before, packed = self.held[id(weight)]
            return packed if tuple(before) == state else weight
        if self.bytes + weight.nbytes > MOST_PACKED:
            return weight
        self.bytes += weight.nbytes
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self.held[id(weight)] = weight, *state, packed
        return packed


_packs: ContextVar[_Packs | None] = ContextVar("packs", default=None)


@contextmanager
def packed_weights() -> Iterator[None]:
    """Let linear layers keep their weights packed inside, for work that takes them many times.

    A weight that is replaced or written to is not used packed again. What torch does not count, a
    write through `.data` such as that of merged adapters, must not happen inside; every entry packs
    anew.
    """
    before = _packs.set(_Packs())
    try:
        yield
    finally:
        _packs.reset(before)


def inputs(dtype: torch.dtype, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and bias of a layer that probes run: `512 384`, `512 384`, `512`."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(512, 384, generator=random).to(dtype)
    weight = (torch.randn(512, 384, generator=random) / 20).to(dtype)
    bias = weight[:, 0].clone()
    return x.requires_grad_(grad), nn.Parameter(weight, requires_grad=grad), bias


def candidates(dtype: torch.dtype, grad: bool) -> Candidates:
    """The products of a linear layer."""
    x, weight, bias = inputs(dtype, grad)

    def run(product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        y = product(x, weight, bias)
        return (y, *torch.autograd.grad(y, (x, weight), y.detach())) if grad else (y,)

    found = {"plain": lambda: run(F.linear)}
    if grad:
        for name in GRADIENTS:
            found[name] = partial(run, lambda *given, by=name: _Linear.apply(*given, by))
    else:
        found["onednn"] = lambda: (_product(x, weight, bias, "linear"),)
        found["packed"] = _packed_run(x, weight, bias, "linear")
    return found if torch.backends.mkldnn.is_available() else {"plain": found["plain"]}


def gelu_candidates(dtype: torch.dtype, grad: bool) -> Candidates:
    """The ways to a linear layer with GELU behind it."""
    x, weight, bias = inputs(dtype, grad)
    found: Candidates = {
        "plain": lambda: (F.gelu(F.linear(x, weight, bias), approximate="tanh"),),
        "onednn": lambda: (_product(x, weight, bias, "gelu"),),
        "packed": _packed_run(x, weight, bias, "gelu"),
    }
    return found if torch.backends.mkldnn.is_available() else {"plain": found["plain"]}


def _packed_run(
    x: Tensor, weight: Tensor, bias: Tensor, kind: str
) -> Callable[[], tuple[Tensor, ...]]:
    packs = _Packs()  # packed at the first run, which is not timed
    return lambda: (_product(x, packs.of(weight), bias, kind),)


CANDIDATES = {"linear": candidates, "gelu": gelu_candidates}


@torch.library.custom_op("t2v::linear", mutates_args=())
def _compiled_linear(x: Tensor, weight: Tensor, bias: Tensor | None, name: str) -> Tensor:
    return _product(x, weight, bias, "linear")


@torch.library.custom_op("t2v::linear_gelu", mutates_args=())
def _compiled_linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _product(x, weight, bias, "gelu")


@_compiled_linear.register_fake
@_compiled_linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, name: str = "") -> Tensor:
    return x.new_empty((*x.shape[:-1], len(weight)))


@torch.library.custom_op("t2v::linear_backward", mutates_args=())
def _compiled_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, name: str
) -> tuple[Tensor, Tensor, Tensor]:
    of_x, of_weight, of_bias = _gradients(grad, x, weight, name, (True, True, True))
    assert of_x is not None and of_weight is not None and of_bias is not None
    return of_x, of_weight, of_bias


@_compiled_gradients.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.empty_like(x, memory_format=torch.contiguous_format)
    return made, torch.empty_like(weight), weight.new_empty(len(weight))


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.name = inputs[3]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    of_x, of_weight, of_bias = torch.ops.t2v.linear_backward(grad, x, weight, ctx.name)
    return of_x, of_weight, of_bias if ctx.needs_input_grad[2] else None, None


_compiled_linear.register_autograd(_backward, setup_context=_keep_inputs)
