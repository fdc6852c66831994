"""Taps on a transformer: what its blocks hold and where its text is looked at, as it passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.attention.layer import Attention


def check_layers(transformer: Any, layers: Sequence[int]) -> None:
    """Raise `UserError` where a transformer has no such blocks, or is not of our class."""
    blocks = getattr(transformer, "blocks", ())
    if (
        not all(isinstance(getattr(each, "attn2", None), Attention) for each in blocks)
        or not blocks
    ):
        raise UserError(
            f"A {type(transformer).__name__} has no taps: features and maps of attention are of "
            "T2VTransformer3DModel. Wan's weights become one by t2v convert."
        )
    wrong = [each for each in layers if not 0 <= each < len(blocks)]
    if wrong or not layers:
        raise UserError(
            f"layer {', '.join(map(str, wrong)) or '(none)'}: this transformer has blocks 0 to "
            f"{len(blocks) - 1}. Name those."
        )


@contextmanager
def block_outputs(transformer: nn.Module, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """The hidden states that blocks gave in the last pass, `b n d`, by the number of the block.

    Nothing that passes is changed.

    Raises:
        UserError: see `check_layers`.
    """
    check_layers(transformer, layers)
    found: dict[int, Tensor] = {}
    blocks: Any = transformer.blocks
    handles = [blocks[each].register_forward_hook(partial(_keep, found, each)) for each in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep(found: dict[int, Tensor], layer: int, _: nn.Module, __: Any, output: Tensor) -> None:
    found[layer] = output.detach()


@contextmanager
def looks_at_text(transformer: nn.Module, layers: Sequence[int]) -> Iterator[list[Tensor]]:
    """Weights with which tokens of the video look at the text's, `b n m`, the mean over heads.

    One tensor for each block of `layers` and pass, in the order of the passes; those of a row sum
    to 1. The weights are computed a second time beside the block's own, which stay as they are.

    Raises:
        UserError: see `check_layers`.
    """
    check_layers(transformer, layers)
    found: list[Tensor] = []
    blocks: Any = transformer.blocks
    handles = [
        blocks[each].attn2.register_forward_pre_hook(partial(_look, found)) for each in layers
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _look(found: list[Tensor], attention: Attention, given: tuple[Any, ...]) -> None:
    x, text, mask = given[:3]
    query, key, _ = attention.project(x, text)  # b n k d
    scores = einsum(query.float(), key.float(), "b n k d, b m k d -> b k n m")
    scores = scores * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~rearrange(mask, "b m -> b 1 1 m"), -torch.inf)
    found.append(scores.softmax(-1).mean(1))
