"""The batches of a run in the order of its steps, read ahead of them where a device computes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from t2v.config.training import TrainConfig
from t2v.errors import UserError
from t2v.models.device import pick_device
from t2v.training.engine.task import Task

AHEAD = 2  # batches that each worker holds ready
WORKERS = 2  # beside a GPU; on a CPU the cores are those of the step


def batches(
    task: Task, config: TrainConfig, first: int, shards: Sequence[int], of: int
) -> Iterator[Any]:
    """The batches that `task.read` gives from step `first` on, one for each of `shards` a step.

    Workers take turns, so order and content are those of reading in between steps. Batches come in
    pinned memory where the device is a CUDA one.

    Args:
        of: batches of a step, in all processes.

    Raises:
        UserError: what `task.read` raises.
    """
    device = pick_device(config.device)
    workers = loader_workers(config, device)
    order = [(step, shard) for step in range(first, config.steps) for shard in shards]
    loader = DataLoader(
        _Batches(task, of),
        batch_size=None,
        sampler=_Order(order),
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        persistent_workers=bool(workers),
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_run,
        # neither draws from the global generator nor pickles a task, which holds open files
        generator=torch.Generator(),
        multiprocessing_context="fork" if workers else None,
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def loader_workers(config: TrainConfig, device: torch.device) -> int:
    """Return the processes that read ahead: `config.loader_workers`, or as many as are worth it.

    Raises:
        UserError: some are asked for on a system that cannot fork.
    """
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    if config.loader_workers is None:
        return WORKERS if device.type == "cuda" and can_fork else 0
    if config.loader_workers and not can_fork:
        raise UserError(
            f"loader_workers={config.loader_workers}: this system cannot fork processes that read "
            "ahead. Give 0, or leave it out."
        )
    return config.loader_workers


class _Batches(Dataset[Any]):
    def __init__(self, task: Task, of: int) -> None:
        self.task, self.of = task, of

    def __getitem__(self, place: tuple[int, int]) -> Any:
        try:
            return self.task.read(*place, self.of)
        except UserError as error:  # raised in a worker it would come with a traceback
            return error


class _Order(torch.utils.data.Sampler[tuple[int, int]]):
    def __init__(self, places: Sequence[tuple[int, int]]) -> None:
        self.places = places

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.places)


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_run(_: int) -> None:
    """The run saves at Ctrl-C and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
