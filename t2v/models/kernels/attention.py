"""Attention on a CPU: torch's fused kernel, products and softmax of whole heads, or in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from t2v.models.kernels.choice import Candidates, chosen, is_auto, is_counted

FEW_KEYS = 128  # of texts; another kernel may be faster there than among the tokens of a video
ROWS = 512  # of queries at a time, in chunks
MOST_SCORES = 2**26  # of one sample, that a backward pass computes again as a whole


def attention_kernel(query: Tensor, key: Tensor) -> str:
    """The name of the fastest kernel for `query` and `key` (`b n k d`), without a mask.

    "sdpa" is torch's; the others agree with it to 1e-5 of the largest value in fp32 and to 2e-2 in
    bf16, where they round the scores and torch's does not.
    """
    if not is_auto() or query.device.type != "cpu" or query.dtype != key.dtype:
        return "sdpa"
    if query.dtype not in (torch.float32, torch.bfloat16):
        return "sdpa"
    if not torch.compiler.is_compiling() and is_counted():
        return "sdpa"
    grad = torch.is_grad_enabled()
    count, keys, heads = query.shape[1], key.shape[1], query.shape[2]
    if grad and count * keys * heads > MOST_SCORES:
        return "sdpa"
    op, make = ("attention", candidates) if keys > FEW_KEYS else ("attention_text", few_candidates)
    return chosen(op, query.dtype, grad, make)


def attend(query: Tensor, key: Tensor, value: Tensor, kernel: str) -> Tensor:
    """`softmax(q k' / sqrt(d)) v` of `b n k d`, by the kernel of that name but "sdpa"."""
    if torch.compiler.is_compiling():
        return torch.ops.t2v.attention(query, key, value, kernel)
    if torch.is_grad_enabled():
        return _Attention.apply(query, key, value)
    return FORWARD[kernel](query, key, value)


def _by_heads(x: Tensor) -> Tensor:
    return rearrange(x, "b n k d -> b k n d").contiguous()


def _scaled(query: Tensor) -> Tensor:
    return query * query.shape[-1] ** -0.5


def _whole(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """All heads of a sample at once, as many rows as keep the scores in the processor's cache."""
    query, key, value = _by_heads(_scaled(query)), _by_heads(key), _by_heads(value)
    out = torch.empty_like(query)
    rows = max(64, 2**22 // (key.shape[1] * key.shape[2]))
    for q, k, v, o in zip(query, key, value, out, strict=True):
        for start in range(0, q.shape[1], rows):
            part = slice(start, start + rows)
            torch.bmm(_weights(q[:, part], k), v, out=o[:, part])
    return rearrange(out, "b k n d -> b n k d")


def _weights(query: Tensor, key: Tensor) -> Tensor:
    scores = query.new_empty(*query.shape[:2], key.shape[1])
    torch.bmm(query, key.mT, out=scores)  # which selective checkpointing does not hold on to
    return torch.softmax(scores, dim=-1, out=scores)


def _chunks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One head and `ROWS` queries at a time, by oneDNN's product of a linear layer."""
    product = torch.ops.mkldnn._linear_pointwise
    query, key = _by_heads(_scaled(query)), _by_heads(key)
    value = rearrange(value, "b n k d -> b k d n").contiguous()
    out = torch.empty_like(
        rearrange(query, "b k n d -> b n k d"), memory_format=torch.contiguous_format
    )
    for sample in range(len(query)):
        for head in range(query.shape[1]):
            q, k, v = query[sample, head], key[sample, head], value[sample, head]
            for start in range(0, len(q), ROWS):
                scores = product(q[start : start + ROWS], k, None, "none", [], "")
                torch.softmax(scores, dim=-1, out=scores)
                out[sample, start : start + ROWS, head] = product(scores, v, None, "none", [], "")
    return out


FORWARD: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "whole": _whole,
    "chunks": _chunks,
}


class _Attention(torch.autograd.Function):
    """`_whole`, whose backward pass computes the weights of a sample again."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return _whole(query, key, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _gradients(grad, *ctx.saved_tensors)


def _gradients(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    given = [_by_heads(each) for each in (_scaled(query), key, value, grad)]
    made = [torch.empty_like(each) for each in given[:3]]
    for (q, k, v, g), (of_q, of_k, of_v) in zip(
        zip(*given, strict=True), zip(*made, strict=True), strict=True
    ):
        weights = _weights(q, k)
        torch.bmm(weights.mT, g, out=of_v)
        of_weights = torch.bmm(g, v.mT)
        of_scores = torch._softmax_backward_data(
            of_weights, weights, -1, weights.dtype, grad_input=of_weights
        )
        torch.bmm(of_scores, k, out=of_q)
        torch.bmm(of_scores.mT, q, out=of_k)
    of_query, of_key, of_value = (rearrange(each, "b k n d -> b n k d") for each in made)
    return _scaled(of_query), of_key, of_value


def candidates(dtype: torch.dtype, grad: bool) -> Candidates:
    """The kernels among the tokens of a video."""
    return _candidates(dtype, grad, 384)


def few_candidates(dtype: torch.dtype, grad: bool) -> Candidates:
    """The kernels from the tokens of a video to those of a text."""
    return _candidates(dtype, grad, 64)


def _candidates(dtype: torch.dtype, grad: bool, keys: int) -> Candidates:
    random = torch.Generator().manual_seed(0)
    drawn = torch.randn(384 + 2 * keys, 4, 64, generator=random).to(dtype).unsqueeze(0)
    parts = drawn.split((384, keys, keys), dim=1)
    given = [each.contiguous().requires_grad_(grad) for each in parts]

    def run(kernel: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        y = kernel(*given)
        return (y, *torch.autograd.grad(y, given, y.detach())) if grad else (y,)

    if grad:
        return {"sdpa": lambda: run(_sdpa), "whole": lambda: run(_Attention.apply)}
    return {
        "sdpa": lambda: run(_sdpa),
        "whole": lambda: run(_whole),
        "chunks": lambda: run(_chunks),
    }


def _sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = (rearrange(each, "b n k d -> b k n d") for each in (query, key, value))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b k n d -> b n k d")


@torch.library.custom_op("t2v::attention", mutates_args=())
def _compiled(query: Tensor, key: Tensor, value: Tensor, kernel: str) -> Tensor:
    return FORWARD[kernel](query, key, value).contiguous()


@_compiled.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, kernel: str) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


@torch.library.custom_op("t2v::attention_backward", mutates_args=())
def _compiled_gradients(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    of_query, of_key, of_value = _gradients(grad, query, key, value)
    return of_query.contiguous(), of_key.contiguous(), of_value.contiguous()


@_compiled_gradients.register_fake
def _(grad: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    plain = torch.contiguous_format
    query, key, value = (torch.empty_like(x, memory_format=plain) for x in (query, key, value))
    return query, key, value


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*torch.ops.t2v.attention_backward(grad, *ctx.saved_tensors), None)


_compiled.register_autograd(_backward, setup_context=_keep_inputs)
