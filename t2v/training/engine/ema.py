"""A running average of the weights: what is validated, sampled from and shipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from t2v.training.engine.collectives import split_like


class EMA:
    """Exponential moving average of a model's trained parameters, in float32, split as they are.

    The decay starts low, `(1 + step) / (10 + step)`, so that a young average forgets the weights
    training began with.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().float().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights that step `step` (from 0) produced."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = [p.detach().float() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self._average.values()), live, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model holds the average; afterwards its own weights, to the bit."""
        own = [p.detach().clone() for p in self._parameters.values()]
        self._fill(self._average.values())
        try:
            yield
        finally:
            self._fill(own)

    def tensors(self) -> dict[str, Tensor]:
        """The average by parameter name."""
        return self._average

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `tensors` gave."""
        for name, average in self._average.items():
            average.copy_(split_like(tensors[name], average))

    @torch.no_grad()
    def _fill(self, values: Iterable[Tensor]) -> None:
        for parameter, value in zip(self._parameters.values(), values, strict=True):
            parameter.copy_(value)
