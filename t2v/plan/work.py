"""A work to plan: its networks, the phases it goes through, and those that trainings share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from t2v.config.training import TrainConfig
from t2v.models.device import pick_device
from t2v.plan.tiles import Tiles
from t2v.training.engine.example import Size
from t2v.training.engine.loop import TrainState, autocast

EMBED = "embed a caption"


@dataclass(frozen=True)
class Phase:
    """A part of the work and how often it is done in all.

    Args:
        parts: the networks at work in it, by name.
        passes: how often one run reads their weights.
        away: networks whose weights are not on the device of a card then, but in main memory.
        gone: of them, those that are in no memory any more.
        once: done once a run, before anything learns.
    """

    name: str
    run: Callable[[], Any]
    times: int
    parts: tuple[str, ...] = ()
    passes: int = 1
    away: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    once: bool = False


@dataclass(frozen=True)
class TiledDecode:
    """The decoding of one tile, and the tiles of a whole video, whose pixels have `video` bytes."""

    run: Callable[[], Any]
    tiles: Tiles
    video: int


@dataclass
class Workload:
    """The parts of a model and the phases it goes through, in their order."""

    parts: dict[str, nn.Module]
    phases: list[Phase]
    latents: int  # bytes of one clip's latents in half precision
    state: TrainState | None = None
    absent: list[str] = field(default_factory=list)  # what could not be counted, and why
    tile: TiledDecode | None = None  # what decodes one tile in the place of the last phase

    def trained(self) -> int:
        """Bytes of the parameters that learn, and so of their gradients."""
        return sum(p.nbytes for p in self._parameters() if p.requires_grad) if self.state else 0

    def weights(self) -> int:
        """Bytes of all parameters."""
        return sum(p.nbytes for p in self._parameters())

    def bytes_of(self, names: Collection[str]) -> int:
        """Bytes of the parameters of some parts."""
        parts = [part for name, part in self.parts.items() if name in names]
        return sum(p.nbytes for part in parts for p in part.parameters())

    def optimizer(self) -> int:
        """Bytes of the optimizer's state, once a step has made it."""
        tensors = self.state.optimizer.state_tensors().values() if self.state else ()
        return sum(each.nbytes for each in tensors)

    def average(self) -> int:
        """Bytes of the averaged weights."""
        tensors = self.state.ema.tensors().values() if self.state else ()
        return sum(each.nbytes for each in tensors)

    def _parameters(self) -> Iterator[Tensor]:
        for part in self.parts.values():
            yield from part.parameters()


def embed_phase(config: TrainConfig, encoder: Any, size: Size) -> Phase:
    """The embedding of one caption, as captions are embedded before the first step."""

    @torch.no_grad()
    def run() -> None:
        tokens = torch.zeros(1, size.tokens, dtype=torch.long, device=pick_device(config.device))
        with autocast(config):
            encoder(input_ids=tokens, attention_mask=torch.ones_like(tokens))

    return Phase(EMBED, run, 0, once=True)


def validations(config: TrainConfig) -> int:
    """The validations of a run: before its first step, and every `validate_every`."""
    return 1 + -(-config.steps // config.validate_every)
