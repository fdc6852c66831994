"""The clips and the random numbers of a step, as functions of seed, step and rank."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def keyed_generator(*keys: int | str) -> torch.Generator:
    """Make a CPU generator whose seed is a stable hash of `keys`: (seed, step, rank, "noise").

    Resuming at any step needs no stored state, and numbers of the CPU are the same for any device.
    """
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def step_indices(
    count: int, batch_size: int, seed: int, step: int, rank: int = 0, world_size: int = 1
) -> Tensor:
    """Return the clips of one step, `batch_size` indices below `count`, each one once an epoch.

    A batch may straddle two epochs, so that every batch is full.
    """
    first = (step * world_size + rank) * batch_size
    positions = range(first, first + batch_size)
    return torch.stack([_epoch(count, seed, p // count)[p % count] for p in positions])


@lru_cache(maxsize=64)  # one or two a shape of clips
def _epoch(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=keyed_generator(seed, epoch, "epoch"))
