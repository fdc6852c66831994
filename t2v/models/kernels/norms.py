"""Norms, modulation and gates in one pass, without copies in another number format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from t2v.models.kernels.choice import Candidates, chosen, is_auto, is_counted


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`F.rms_norm` over the last axis, in the dtype of `x`; bf16 within three roundings of it, fp32
    in training within 1e-5 of the largest value."""
    grad = torch.is_grad_enabled()
    if (x.dtype == torch.bfloat16 or (grad and x.dtype == torch.float32)) and _applies(x):
        name = chosen("rms_norm", x.dtype, grad, rms_candidates)
        return {**RMS, **RMS_LEARNED}[name](x, weight, eps)
    return _torch_rms(x, weight, eps)


def modulated(x: Tensor, eps: float, scale: Tensor, shift: Tensor) -> Tensor | None:
    """`layer_norm(x) * (1 + scale) + shift`, in the dtype of `x` (`b n d`).

    As the weight and bias of the norm itself, sample by sample; 1e-5 of the largest value in fp32,
    one rounding in bf16. None where that does not apply (one time a token) or is not faster.
    """
    if scale.shape[1] != 1 or scale.dtype != torch.float32 or not _applies(x):
        return None
    if x.dtype not in (torch.float32, torch.bfloat16):
        return None
    grad = torch.is_grad_enabled()
    if grad and x.dtype == torch.bfloat16:  # the gradients of scale and shift sum up in bf16
        return None
    if chosen("modulate", x.dtype, grad, modulate_candidates) == "plain":
        return None
    return _affine(x, eps, scale, shift)


def normed(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor | None:
    """`F.layer_norm` of bf16 by a weight and bias of fp32 in one pass, within one rounding; None
    where that does not apply or is not faster."""
    if x.dtype != torch.bfloat16 or weight.dtype != torch.float32 or not _applies(x):
        return None
    if torch.is_grad_enabled():
        return None
    if chosen("modulate", x.dtype, False, modulate_candidates) == "plain":
        return None
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor | None:
    """`x + gate * update` of bf16 in one pass, the gate rounded to bf16; None where it is not
    faster."""
    is_half = x.dtype == update.dtype == torch.bfloat16
    if not is_half or torch.is_grad_enabled() or not _applies(x):
        return None
    if chosen("gate", x.dtype, False, gate_candidates) == "plain":
        return None
    return torch.addcmul(x, update, gate.to(x.dtype))


def _applies(x: Tensor) -> bool:
    # a compiler fuses the plain formulas by itself
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return is_auto() and not is_counted()


def _torch_rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight.type_as(x), eps)


def _rms_in_fp32(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (wide * scale * weight).type_as(x)


def _rms_in_place(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The sum of squares in fp32 while reading bf16; two roundings more than in fp32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.rsqrt(norm.square() / x.shape[-1] + eps)
    return x * scale.type_as(x) * weight.type_as(x)


class _RMS(torch.autograd.Function):
    """`F.rms_norm` of fp32, whose gradient is that of a layer norm about a mean of zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.rsqrt(norm.square() / x.shape[-1] + eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad, width, needed = grad.contiguous(), x.shape[-1:], [*ctx.needs_input_grad[:2], False]
        of_x, of_weight, _ = torch.ops.aten.native_layer_norm_backward(
            grad, x, width, torch.zeros_like(scale), scale, weight, None, needed
        )
        if needed[0]:  # a layer norm takes the mean from the gradient, too
            of_x += (grad @ weight).unsqueeze(-1) * (scale / x.shape[-1])
        return of_x, of_weight, None


def _rms_as_layer_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _RMS.apply(x.contiguous(), weight.type_as(x), eps)


RMS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "plain": _torch_rms,
    "fp32": _rms_in_fp32,
    "bf16": _rms_in_place,
}
RMS_LEARNED: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "plain": _torch_rms,
    "layer_norm": _rms_as_layer_norm,  # of fp32: half precision would round what cancels
}


def _affine(x: Tensor, eps: float, scale: Tensor, shift: Tensor) -> Tensor:
    width, weight = x.shape[-1:], 1 + scale
    made = [F.layer_norm(each, width, weight[i, 0], shift[i, 0], eps) for i, each in enumerate(x)]
    return made[0].unsqueeze(0) if len(made) == 1 else torch.stack(made)


def _two_passes(x: Tensor, eps: float, scale: Tensor, shift: Tensor) -> Tensor:
    return (F.layer_norm(x.float(), x.shape[-1:], eps=eps) * (1 + scale) + shift).type_as(x)


def _drawn(dtype: torch.dtype, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, 512, 384, generator=random).to(dtype)
    scale, shift = torch.randn(2, 1, 1, 384, generator=random).unbind()
    return x.requires_grad_(grad), scale.requires_grad_(grad), shift.requires_grad_(grad)


def _runs(
    makers: Mapping[str, Callable[[], Tensor]], given: tuple[Tensor, ...], grad: bool
) -> Candidates:
    def run(make: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        y = make()
        return (y, *torch.autograd.grad(y, given, y.detach())) if grad else (y,)

    return {name: partial(run, make) for name, make in makers.items()}


def rms_candidates(dtype: torch.dtype, grad: bool) -> Candidates:
    """The ways to an RMS norm."""
    x, scale, _ = _drawn(dtype, grad)
    weight = scale[0, 0]
    ways = RMS_LEARNED if grad and dtype == torch.float32 else RMS
    makers = {name: partial(norm, x, weight, 1e-6) for name, norm in ways.items()}
    return _runs(makers, (x, scale), grad)


def modulate_candidates(dtype: torch.dtype, grad: bool) -> Candidates:
    """The ways to a modulated layer norm."""
    x, scale, shift = _drawn(dtype, grad)
    makers = {
        "plain": lambda: _two_passes(x, 1e-6, scale, shift),
        "affine": lambda: _affine(x, 1e-6, scale, shift),
    }
    return _runs(makers, (x, scale, shift), grad)


def gate_candidates(dtype: torch.dtype, grad: bool) -> Candidates:
    """The ways to add what a gate weighs."""
    x, gate, _ = _drawn(dtype, grad)
    makers = {
        "plain": lambda: (x.float() + x * gate).type_as(x),
        "one_pass": lambda: torch.addcmul(x, x, gate.to(x.dtype)),
    }
    return _runs(makers, (), grad)
