"""The text's keys and values: computed in the first step of a sampling run, read in the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class KVCache:
    """One text, as the text embedder and each cross-attention layer see it.

    Whoever owns the loop makes one for each text tensor it hands to the transformer, passes it as
    `attention_kwargs={"kv_cache": cache}`, and a new one once weights, adapters or the text have
    changed. A plain object rather than a dict, so that offload hooks hand it through untouched.
    """

    def __init__(self) -> None:
        self._entries: dict[nn.Module, tuple[Tensor, object]] = {}

    def get(self, layer: nn.Module, text: Tensor, compute: Callable[[Tensor], T]) -> T:
        """`compute(text)`, from the second call of `layer` on what the first one gave.

        Hooks may come between: another text than the first, such as the half of a batch that
        FasterCache asks about, or a copy on another device, is computed each time.
        """
        if layer not in self._entries:
            self._entries[layer] = text, compute(text)
        first, answer = self._entries[layer]
        return answer if first is text else compute(text)  # type: ignore[return-value]


def cached(
    cache: KVCache | None, layer: nn.Module, text: Tensor, compute: Callable[[Tensor], T]
) -> T:
    """`compute(text)`, from `cache` where there is one and nothing is recorded or compiled.

    Gradient checkpointing runs a layer twice and must meet the same operations; a compiled graph
    has no tensor identities.
    """
    if cache is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return compute(text)
    return cache.get(layer, text, compute)
