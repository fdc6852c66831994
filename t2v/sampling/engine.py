"""Models that stay ready between videos; the least recently used of them leaves for another."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from t2v.config.sampling import SampleConfig
from t2v.models.device import free_memory, pick_device, trim
from t2v.models.folder import model_folder, weight_bytes
from t2v.pipelines.generator import Generator

logger = logging.getLogger(__name__)

# settings that decide what is loaded, and how
HOLDING = (
    *("model", "base", "device", "dtype", "offload", "quantize", "vae_tiling", "attention"),
    *("attention_layout", "compile", "shift", "codes"),
    *("lora", "lora_scale", "lora_part", "lora_fit"),
)
ROOM = 4  # the free memory a model is read into holds its files so many times

Loader = Callable[..., tuple[Generator, str]]  # as `run.load`
Embed = Callable[[Generator], None]
Key = tuple[object, ...]


class Engine:
    """Models that were loaded, ready for the next video that takes them.

    A model whose files were changed since is read again, and so is one that is to be held in
    another way, such as with another LoRA.

    Args:
        read: loads a model that is not ready, as `run.load` does.
        most: models at a time, from 1.
        memory: bytes of weights, beyond which others leave for a model that is read; None: they
            leave where its files are more than a quarter of what is free.
    """

    def __init__(self, read: Loader, most: int = 1, memory: int | None = None) -> None:
        self.read, self.most, self.memory = read, most, memory
        self._ready: dict[Key, tuple[Generator, str]] = {}  # the least recently used one first

    def __len__(self) -> int:
        return len(self._ready)

    def load(
        self, config: SampleConfig, prompts: Sequence[str], embed: Embed | None = None
    ) -> tuple[Generator, str]:
        """The generator of settings and the hash of its weights, in the place of `run.load`.

        Raises:
            UserError: see `run.load`.
        """
        key = _key(config)
        found = self._ready.pop(key, None)
        if found is None:
            self._make_room(config)
            found = self.read(config, prompts, embed)
        if config.offload != "text":  # whose encoders have left
            self._ready[key] = found
        return found

    @property
    def nbytes(self) -> int:
        """The bytes of the weights that are in memory."""
        return sum(_bytes(generator) for generator, _ in self._ready.values())

    def clear(self) -> None:
        """Let all models leave the memory."""
        self._ready.clear()
        _collect()

    def _make_room(self, config: SampleConfig) -> None:
        need, device = weight_bytes(model_folder(config.folder)), pick_device(config.device)
        while self._ready and not self._has_room(need, device):
            oldest = next(iter(self._ready))
            logger.info("model=%s leaves the memory", oldest[0])
            del self._ready[oldest]
            _collect()

    def _has_room(self, need: int, device: torch.device) -> bool:
        if len(self._ready) >= self.most:
            return False
        if self.memory is not None:
            return self.nbytes + need <= self.memory
        free = free_memory(device)
        return free is None or ROOM * need <= free


def _key(config: SampleConfig) -> Key:
    """All that a loaded model depends on: settings, and the state of the files they name."""
    held = tuple(getattr(config, name) for name in HOLDING)
    sees = config.sees
    places = [model_folder(config.folder), *map(Path, config.lora)]
    if config.base is not None:
        places.append(Path(config.model))
    return (*held, sees, bool(config.motion), tuple(state_of(place) for place in places))


def state_of(place: Path) -> tuple[object, ...]:
    """Return the names, sizes and times of the files of a folder, or of a file."""
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    states = ((path, path.stat()) for path in files if path.is_file())
    return tuple((path, each.st_size, each.st_mtime_ns, each.st_ino) for path, each in states)


def _bytes(generator: Generator) -> int:
    """The bytes of the weights of a generator that are in memory."""
    parts = [each for each in generator.pipeline.components.values() if isinstance(each, nn.Module)]
    return sum(each.nbytes for part in parts for each in _tensors(part) if not each.is_meta)


def _tensors(part: nn.Module) -> Iterator[torch.Tensor]:
    yield from part.parameters()
    yield from part.buffers()


def _collect() -> None:
    gc.collect()  # pipelines and their hooks refer to each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim()
