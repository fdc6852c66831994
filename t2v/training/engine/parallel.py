"""The share of one process in a run: its batches, reduced gradients, weights split or not."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from diffusers.models.attention_dispatch import attention_backend
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from t2v.config.training import TrainConfig
from t2v.distributed import rank, world_size
from t2v.models.device import DTYPES, pick_device
from t2v.models.kernels.precision import picked_precision
from t2v.training.engine.activations import cast_residual, checkpoint_gradients, compile_parts
from t2v.training.engine.collectives import gathered
from t2v.training.engine.ema import EMA
from t2v.training.engine.sharding import blocks, split
from t2v.training.engine.task import Task


class Worker:
    """This process's share of a run.

    A step is made of `shards` batches, `accumulate` in each process. Shard k is the same batch
    with the same noise wherever it runs, so the run depends on their number alone: two processes
    train what one process trains with twice the `accumulate`, up to the order of sums.

    With "fsdp" no process holds the weights whole but for judging and saving: then the first one
    gathers the average on its CPU, for the code that one process uses.
    """

    def __init__(self, task: Task, config: TrainConfig) -> None:
        self.task, self.accumulate = task, config.accumulate
        self.device = pick_device(config.device)
        self.shards = world_size() * config.accumulate
        self.compiled = config.compile
        self.sharded = world_size() > 1 and config.parallel == "fsdp"
        if config.gradient_checkpointing:
            checkpoint_gradients(task, config.checkpointing)
        if config.residual is not None:
            cast_residual(task, DTYPES[config.residual])
        if config.compile:
            compile_parts(task, config)
        self._blank: nn.Module | None = None
        if self.sharded and rank() == 0:
            shapes = {name: p.to("meta") for name, p in task.model.named_parameters()}
            self._blank = replaced(task.model, shapes)
        elif self.device.type != "cpu" and not self.sharded:
            task.model.to(self.device)
        self._loss: Any = _Loss(task)
        if self.sharded:
            halved = picked_precision(config.precision, self.device) == "bf16"
            split(self._loss, self.device, halved=halved)
        elif world_size() > 1:
            # which takes a walk through the graph of every step
            unused = task.leaves_unused
            self._loss = DistributedDataParallel(self._loss, find_unused_parameters=unused)

    def shard(self, micro: int) -> int:
        """Return the batch of the step that this process takes as its `micro`-th."""
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

    def eager(self) -> AbstractContextManager[Any]:
        """Inside, nothing is compiled: samples of a validation have sizes of their own."""
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def averaged(self, ema: EMA) -> AbstractContextManager[None]:
        """Inside, `task.model` holds the average, unsplit. All ranks call it, the first enters."""
        if not self.sharded:
            return ema.applied()
        trained = dict(self.task.model.named_parameters())
        return self._unsplit(gathered(trained | ema.tensors()))

    @contextmanager
    def _unsplit(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        assert self._blank is not None, "only the first rank has one"
        trained, self.task.model = self.task.model, replaced(self._blank, weights)
        if self.device.type != "cpu":
            stream(self.task.model, self.device)
        try:
            yield
        finally:
            self.task.model = trained


def replaced(model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with `values` for its parameters; its buffers are those of the model."""
    memo: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for name, parameter in model.named_parameters():
        value = values[name].to(parameter.dtype)
        memo[id(parameter)] = nn.Parameter(value, parameter.requires_grad)
    return copy.deepcopy(model, memo)


def stream(model: nn.Module, device: torch.device) -> None:
    """Let a model that lies on the CPU compute on `device`, which holds one block at a time.

    A copy of the model does the same.
    """
    streamed = blocks(model)
    inside = {id(module) for block in streamed for module in block.modules()}
    for module in model.modules():
        if id(module) not in inside:
            module._apply(lambda tensor: tensor.to(device), recurse=False)
    for block in streamed:
        block.register_forward_pre_hook(lambda block, _: _ignored(block.to(device)))
        block.register_forward_hook(lambda block, *_: _ignored(block.to("cpu")))


def _ignored(_: object) -> None:
    """Nothing: what a hook returns would take the place of the block's input or output."""


def kernel(task: Task) -> AbstractContextManager[None]:
    """The attention of a whole step: what is recomputed in the backward pass needs the same one."""
    return attention_backend(task.attention) if task.attention else nullcontext()


class _Loss(nn.Module):
    """`task.loss` as the module that DDP and FSDP2 wrap."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self.task = task

    def forward(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return self.task.loss(batch, generator)
