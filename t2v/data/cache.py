"""A cache of tensors on disk, by a hash of all that they were made from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.io.files import complete, digest, remove_partials

logger = logging.getLogger(__name__)

TENSORS_PER_SHARD = 64


_kept_digests: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def keep_digest(module: nn.Module, kind: str) -> None:
    """Remember the hash of a network whose weights are about to wait where nothing reads them.

    Args:
        kind: the number format in which they will be held; `none`: their own.
    """
    now = weights_digest(module)
    _kept_digests[module] = now if kind == "none" else digest(now, kind)


def weights_digest(module: nn.Module) -> str:
    """Return a hash of a network's class, names and weights."""
    if module in _kept_digests:
        return _kept_digests[module]
    hashed = hashlib.sha256(type(module).__name__.encode())
    for name, tensor in sorted(module.state_dict().items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if type(tensor).__module__.startswith("torchao"):  # its eight bits have no plain view
            tensor = tensor.dequantize()
        hashed.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()[:32]


class Cache:
    """Tensors by key in the safetensors shards of a folder, written a shard at a time.

    A shard gets its name when it is complete, so a kill leaves whole shards only. A shard that
    cannot be read is named in a warning and counts as absent.

    Args:
        per_shard: tensors in a shard, by default `TENSORS_PER_SHARD`; a kill loses at most as many.
    """

    def __init__(self, folder: Path, per_shard: int | None = None) -> None:
        self.folder, self.per_shard = folder, per_shard or TENSORS_PER_SHARD
        self.held: dict[str, Tensor] = {}
        self.shards: dict[str, Any] = {}  # key to its open shard
        self.waiting: dict[str, Tensor] = {}
        remove_partials(folder)
        for path in sorted(folder.glob("*.safetensors")):
            self._open(path)

    def __contains__(self, key: str) -> bool:
        return key in self.held or key in self.shards or key in self.waiting

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a tensor without reading it."""
        for kept in (self.held, self.waiting):
            if key in kept:
                return tuple(kept[key].shape)
        return tuple(self.shards[key].get_slice(key).get_shape())

    def read(self, key: str) -> Tensor:
        """Return the tensor of a key.

        Raises:
            UserError: it holds NaN or inf: it was written without, so the file is damaged.
        """
        for kept in (self.held, self.waiting):
            if key in kept:
                return kept[key]
        tensor = self.shards[key].get_tensor(key)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(
                f"{self.folder}: the tensor {key} is damaged: it holds NaN or inf. "
                "Remove the folder; it will be made again."
            )
        return tensor

    def hold(self, keys: Iterable[str], tensors: Iterable[Tensor]) -> None:
        """Keep tensors in memory alone; they are read from there."""
        self.held |= zip(keys, tensors, strict=True)

    def add(self, key: str, tensor: Tensor) -> None:
        """Keep a finite tensor; it is on disk after the next `flush`, which a full shard brings."""
        assert not tensor.is_floating_point() or tensor.isfinite().all()
        self.waiting[key] = tensor.contiguous()
        if len(self.waiting) >= self.per_shard:
            self.flush()

    def flush(self) -> None:
        """Write the tensors that are not on disk yet."""
        if not self.waiting:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{digest(*sorted(self.waiting))[:16]}.safetensors"
        with complete(path) as partial:
            save_file(self.waiting, partial)
        self._open(path)
        self.waiting = {}

    def _open(self, path: Path) -> None:
        try:
            shard = safe_open(path, "pt")
        except (SafetensorError, OSError) as error:
            logger.warning("%s cannot be read (%s) and is left out.", path, error)
            return
        self.shards |= dict.fromkeys(shard.keys(), shard)


def read_kept(folder: Path, keys: list[str]) -> Tensor:
    """Return videos that an earlier evaluation sampled, `n t h w c`.

    Raises:
        UserError: some are missing.
    """
    cache = Cache(folder)
    if missing := [key for key in keys if key not in cache]:
        raise UserError(
            f"{folder}: {len(missing)} of {len(keys)} videos are missing. Run the evaluation again."
        )
    return torch.stack([cache.read(key) for key in keys])
