"""Weights split over the ranks by FSDP2: what is gathered in which format, and who read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
import torch.distributed as dist
from accelerate import init_empty_weights
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils import swap_tensors

from t2v.config.training import TrainConfig
from t2v.distributed import rank, world_size

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# what autocast does as well: products in bf16, their gradients summed in fp32
HALVED = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)


def shapes_alone(config: TrainConfig) -> AbstractContextManager[None]:
    """Inside, a network's weights are shapes, if `split` will give this rank those of the first."""
    if config.parallel == "fsdp" and rank() > 0:
        return init_empty_weights(include_buffers=False)
    return nullcontext()


def split(root: nn.Module, device: torch.device, *, halved: bool) -> None:
    """Split the weights of `root` over the ranks, moved to `device`; blocks are gathered singly.

    Where other ranks have shapes alone they get the weights of the first one, a block at a time.

    Args:
        halved: gather the products' weights of blocks in bf16. Steps under autocast to bf16 round
            them so anyway, so it changes no bit of the forward pass. The others of a block are few;
            they stay in fp32 and are gathered at the start of a step.
    """
    mesh, inner = init_device_mesh(device.type, (world_size(),)), blocks(root)
    own = [[*_of_products(block)] if halved else [*block.parameters()] for block in inner]
    absent, of_blocks = _absent(root), set[nn.Parameter]().union(*own)
    _fill([p for p in root.parameters() if p not in of_blocks], absent, device)
    if halved:  # before the blocks, as it leaves the modules inside of split ones alone
        fully_shard(root, mesh=mesh, ignored_params=of_blocks)
    for block, weights in zip(inner, own, strict=True):
        _fill(weights, absent, device)
        others = {*block.parameters()} - {*weights}
        policy = HALVED if halved else MixedPrecisionPolicy()
        fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=others)
    if not halved:
        fully_shard(root, mesh=mesh)


def _of_products(block: nn.Module) -> Iterator[nn.Parameter]:
    """The weights and biases that autocast rounds."""
    for module in block.modules():
        if isinstance(module, PRODUCTS):
            yield from module.parameters(recurse=False)


def _absent(root: nn.Module) -> set[nn.Parameter]:
    """Those of which ranks beside the first have shapes alone."""
    named = dict(root.named_parameters())
    names: list[object] = [[name for name, p in named.items() if p.is_meta]]
    dist.broadcast_object_list(names, src=world_size() - 1)
    return {named[name] for name in cast(list[str], names[0])}


def _fill(weights: Iterable[nn.Parameter], absent: set[nn.Parameter], device: torch.device) -> None:
    """Send those that are absent from the first rank to the others."""
    for weight in weights:
        if weight in absent:
            value = torch.empty_like(weight, device=device) if rank() else weight.to(device)
            dist.broadcast(value.detach(), src=0)
            swap_tensors(weight, nn.Parameter(value.detach(), weight.requires_grad))


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model, which FSDP2 gathers one at a time."""
    names = {
        name
        for module in model.modules()
        for name in getattr(module, "_no_split_modules", None) or ()
    }
    return [module for module in model.modules() if type(module).__name__ in names]
