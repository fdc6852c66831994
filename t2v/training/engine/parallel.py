"""The share of one process in a run: its batches, reduced gradients, weights split or not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from diffusers.models.attention_dispatch import attention_backend
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from t2v.config.training import TrainConfig
from t2v.distributed import rank, world_size
from t2v.errors import UserError
from t2v.models.device import pick_device
from t2v.training.engine.collectives import whole
from t2v.training.engine.ema import EMA
from t2v.training.engine.task import Task


class Worker:
    """This process's share of a run.

    A step is made of `shards` batches, `accumulate` in each process. Shard k is the same batch
    with the same noise wherever it runs, so the run depends on their number alone: two processes
    train what one process trains with twice the `accumulate`, up to the order of sums.

    With "fsdp" the first rank keeps an unsplit twin of the model, to judge and save it by the code
    that one process uses.
    """

    def __init__(self, task: Task, config: TrainConfig) -> None:
        self.task, self.accumulate = task, config.accumulate
        self.shards = world_size() * config.accumulate
        self.sharded = world_size() > 1 and config.parallel == "fsdp"
        if config.gradient_checkpointing:
            checkpoint_gradients(task)
        self._twin = copy.deepcopy(task.model) if self.sharded and rank() == 0 else None
        self._loss: Any = _Loss(task)
        device = pick_device(config.device)
        if self.sharded:
            mesh = init_device_mesh(device.type, (world_size(),))
            for block in blocks(task):
                fully_shard(block, mesh=mesh)
            fully_shard(self._loss, mesh=mesh)
        elif world_size() > 1:
            # a batch of images leaves out what looks along time
            self._loss = DistributedDataParallel(self._loss, find_unused_parameters=True)

    def shard(self, micro: int) -> int:
        """Which batch of the step this process takes as its `micro`-th."""
        return rank() * self.accumulate + micro

    def backward(
        self, batch: Any, generator: torch.Generator, last: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add a batch's share to the gradients, reduced over the ranks after the last; `loss`."""
        waits: Any = nullcontext()
        if self.sharded:
            self._loss.set_requires_gradient_sync(last)
        elif world_size() > 1 and not last:
            waits = self._loss.no_sync()
        with waits, kernel(self.task):
            loss, extra = self._loss(batch, generator)
            (loss / self.accumulate).backward()
        return loss.detach(), extra

    def averaged(self, ema: EMA) -> AbstractContextManager[None]:
        """Inside, `task.model` holds the average, unsplit. All ranks call it, the first enters."""
        if not self.sharded:
            return ema.applied()
        return self._twinned({name: whole(value) for name, value in ema.tensors().items()})

    @contextmanager
    def _twinned(self, average: dict[str, Tensor]) -> Iterator[None]:
        assert self._twin is not None, "only the first rank has one"
        with torch.no_grad():
            for name, parameter in self._twin.named_parameters():
                if name in average:
                    parameter.copy_(average[name])
        trained, self.task.model = self.task.model, self._twin
        try:
            yield
        finally:
            self.task.model = trained


def kernel(task: Task) -> AbstractContextManager[None]:
    """The attention of a whole step: what is recomputed in the backward pass needs the same one."""
    return attention_backend(task.attention) if task.attention else nullcontext()


def checkpoint_gradients(task: Task) -> None:
    """Let every part that can recompute its activations in the backward pass.

    Raises:
        UserError: none can.
    """
    able = [
        part
        for part in task.parts.values()
        if getattr(part, "_supports_gradient_checkpointing", False)
    ]
    if not able:
        raise UserError(f"gradient_checkpointing=true: {', '.join(task.parts)} cannot. Omit it.")
    for part in able:
        part.enable_gradient_checkpointing()


def blocks(task: Task) -> list[nn.Module]:
    """The repeated blocks of the parts, which FSDP2 gathers one at a time."""
    return [
        module
        for part in task.parts.values()
        for module in part.modules()
        if type(module).__name__ in (getattr(part, "_no_split_modules", None) or ())
    ]


class _Loss(nn.Module):
    """`task.loss` as the module that DDP and FSDP2 wrap."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self.task = task

    def forward(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return self.task.loss(batch, generator)
