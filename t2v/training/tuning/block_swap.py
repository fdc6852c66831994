"""Blocks of a frozen model that wait in the CPU's memory for their turn on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

AT_ONCE = 2  # blocks on the device: one at work, and the one before, which may not be done


class BlockSwap:
    """The frozen weights of blocks, put on the device when a block computes, forward or backward.

    diffusers' group offloading takes weights away after each forward pass, and a backward pass
    finds none. What learns in the blocks stays where it is.

    Args:
        blocks: in the order of a forward pass. Their frozen weights are empty from here on, but
            while a block computes.
        device: where they compute.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self.device = device
        self.kept: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {}
        self.there: list[nn.Module] = []
        for block in blocks:
            frozen = [p for p in block.parameters() if not p.requires_grad]
            self.kept[block] = [(p, _waiting(p.data, device)) for p in frozen]
            self._empty(block)
            block.register_forward_pre_hook(self._fetch)
            block.register_forward_hook(self._fetch_again)

    def bytes(self) -> int:
        """The bytes of the weights that wait."""
        return sum(each.nbytes for kept in self.kept.values() for _, each in kept)

    def _fetch(self, block: nn.Module, _: Any) -> None:
        if block in self.there:
            return
        while len(self.there) >= AT_ONCE:
            self._empty(self.there.pop(0))
        for parameter, value in self.kept[block]:
            parameter.data = value.to(self.device, non_blocking=True)
        self.there.append(block)

    def _fetch_again(self, block: nn.Module, _: Any, output: Tensor) -> None:
        """See to it that the weights are back when the gradient reaches the block."""
        if output.requires_grad:
            output.register_hook(lambda _: self._fetch(block, None))

    def _empty(self, block: nn.Module) -> None:
        for parameter, value in self.kept[block]:
            parameter.data = value.new_empty(0, device=self.device)


def _waiting(value: Tensor, device: torch.device) -> Tensor:
    """The values on the CPU; pinned for CUDA, which copies them without a detour."""
    return value.cpu().pin_memory() if device.type == "cuda" else value.cpu().clone()
