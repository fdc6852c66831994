"""The text's keys and values: computed in the first step of a sampling run, read in the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class KVCache:
    """The embedding of one text, and its keys and values in each cross-attention layer.

    The sampling loop makes one for each text tensor that it passes to the transformer, passes it as
    `attention_kwargs={"kv_cache": cache}`, and makes a new one when weights, adapters or the text
    have changed. A plain object rather than a dict, so that offload hooks pass it on unchanged.
    """

    def __init__(self) -> None:
        self._entries: dict[nn.Module, tuple[Tensor, object]] = {}

    def get(self, layer: nn.Module, text: Tensor, compute: Callable[[Tensor], T]) -> T:
        """Return `compute(text)`, from the second call of `layer` on the result of the first.

        Another text than the first, which hooks may pass, such as the half of a batch that
        FasterCache predicts or a copy on another device, is computed each time.
        """
        if layer not in self._entries:
            self._entries[layer] = text, compute(text)
        first, answer = self._entries[layer]
        return answer if first is text else compute(text)  # type: ignore[return-value]


def cached(
    cache: KVCache | None, layer: nn.Module, text: Tensor, compute: Callable[[Tensor], T]
) -> T:
    """Return `compute(text)`, from `cache` if there is one and nothing is recorded or compiled.

    Gradient checkpointing runs a layer twice and expects the same operations; a compiled graph
    has no tensor identities.
    """
    if cache is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return compute(text)
    return cache.get(layer, text, compute)
