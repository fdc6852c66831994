"""The exchange between the processes of a run, and tensors that are split over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from t2v.distributed import check_launcher, local_rank, rank, world_size
from t2v.errors import UserError

Answer = TypeVar("Answer")

PATIENCE = timedelta(hours=6)  # how long the others wait while the first rank encodes or validates


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes of the launcher; gives the device of this one.

    Raises:
        UserError: WORLD_SIZE is above 1 and the launcher's other variables are missing.
    """
    if world_size() == 1:
        yield device
        return
    check_launcher()
    if device.type == "cuda":
        device = torch.device("cuda", local_rank())
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextmanager
def first_rank_first() -> Iterator[None]:
    """The first rank runs the body, then all others: what it wrote, they find."""
    if rank():
        dist.barrier()
    try:
        yield
    finally:
        if world_size() > 1 and not rank():
            dist.barrier()


def on_first_rank(work: Callable[[], Answer]) -> Answer:
    """Return on every rank what `work` gives on the first; its `UserError` is raised on all."""
    if world_size() == 1:
        return work()
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = work()
        except UserError as error:
            answer[1] = str(error)
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise UserError(answer[1])
    return cast(Answer, answer[0])


def any_rank(flag: bool) -> bool:
    """Return whether `flag` is set on at least one rank."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(float(flag))
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of each value over the ranks."""
    if world_size() == 1:
        return values
    dist.all_reduce(values)
    return values / world_size()


def is_split(tensor: Tensor) -> bool:
    """Return whether each rank holds a part of the tensor, as FSDP2 leaves a parameter."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The tensor in one piece; every rank has to ask for it when it is split over them."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors unsplit, on the first rank alone; those that were split lie on its CPU.

    One after the other is gathered, so that no device ever holds all of them.
    """
    kept = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())
        if rank() == 0:
            kept[name] = (value.cpu() if is_split(tensor) else value).contiguous()
    return kept


def wholes(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors unsplit, one after the other; every rank has to go through all of them."""
    for tensor in tensors:
        yield whole(tensor.detach())


def exhaust(tensors: Iterator[Tensor]) -> None:
    """Go through what is left, which other ranks wait for."""
    for _ in tensors:
        pass


def split_like(value: Tensor, like: Tensor) -> Tensor:
    """`value`, which every rank has whole, split over the ranks as `like` is."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
