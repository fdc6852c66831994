"""Two transformers in one run, each for its part of the times (Wan 2.2 A14B)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.conditions import Conditions
from t2v.models.device import sent
from t2v.models.diffusion import NUM_TRAIN_TIMESTEPS, Objective, logit_normal_between, random_times
from t2v.models.known import transformer_inputs
from t2v.models.learned import DENOISERS, denoisers
from t2v.models.routing import Route

HIGH, LOW = DENOISERS  # by their noise
Which = Literal["both", "high", "low"]


class Experts(NamedTuple):
    """The division of the times among transformers.

    Args:
        boundary: the time, in [0, 1], from which on the first one does; None: there is one.
        which: those that learn.
    """

    boundary: float | None = None
    which: Which = "both"

    def times(
        self, objective: Objective, count: int, shift: float, generator: torch.Generator
    ) -> Tensor:
        """Random times of a batch, `count`, as `random_times` draws them.

        With two transformers all lie in the part of one, so that a step computes one alone. It is
        chosen as often as its part holds a time.
        """
        if self.boundary is None:
            return random_times(objective, count, shift, generator)
        edge = self.boundary / (shift - (shift - 1) * self.boundary)  # before the shift
        first = torch.randn((), generator=generator).sigmoid().item()
        is_high = first >= edge if self.which == "both" else self.which == "high"
        span = (edge, 1.0) if is_high else (0.0, edge)
        t = logit_normal_between(*span, count, generator)
        t = shift * t / (1 + (shift - 1) * t)
        within = torch.tensor(self.boundary)  # rounding may not cross it
        return t.clamp(min=within) if is_high else t.clamp(max=within.nextafter(torch.tensor(0.0)))

    def predict(
        self,
        model: Mapping[str, Any],
        noisy: Tensor,
        timestep: Tensor,
        conditions: Conditions,
        t: Tensor,
        route: Route | None = None,
    ) -> Tensor:
        """The prediction for each sample by the transformer of its time, `b c t h w`.

        Args:
            timestep: as the transformer takes it.
            t: times of the samples, `b`, on the CPU, where a choice waits for no device.
            route: of a batch whose tokens do not all go through every block.
        """
        if self.boundary is None:
            return _predicted(model[HIGH], noisy, timestep, conditions, route)
        edge = torch.tensor(self.boundary).item() * NUM_TRAIN_TIMESTEPS
        is_high = NUM_TRAIN_TIMESTEPS * t >= edge
        found = torch.zeros_like(noisy)
        for name, mine in ((HIGH, is_high), (LOW, ~is_high)):
            if mine.all():
                return _predicted(model[name], noisy, timestep, conditions, route)
            assert route is None  # a batch that is trained on lies in one part
            if mine.any():
                rows = sent(mine.nonzero()[:, 0], noisy.device)
                each = _predicted(model[name], noisy[rows], timestep[rows], conditions.rows(rows))
                found[rows] = each.to(found.dtype)
        return found


def _predicted(
    transformer: nn.Module,
    noisy: Tensor,
    timestep: Tensor,
    conditions: Conditions,
    route: Route | None = None,
) -> Tensor:
    inputs = transformer_inputs(transformer, noisy, timestep, conditions)
    if route is not None:
        return transformer(return_dict=False, route=route, **inputs)[0]
    return transformer(return_dict=False, **inputs)[0]


def learners(parts: Any, which: Which) -> dict[str, Any]:
    """The transformers that learn, by name."""
    wanted = {"both": (HIGH, LOW), "high": (HIGH,), "low": (LOW,)}[which]
    return {name: part for name, part in denoisers(parts).items() if name in wanted}


def check_trainable(model: str, method: str, which: Which, *, has_second: bool) -> None:
    """Check that a saved pipeline is one that the method of fine-tuning trains.

    Args:
        model: as it was given, for messages.
        has_second: does it have two transformers?

    Raises:
        UserError: it has two and the method trains one, or it has one and `which` names one of two.
    """
    if has_second and method not in ("lora", "concept", "soft_prompt"):
        raise UserError(
            f"model={model} has two transformers, one for each part of the times, and "
            f"method={method} trains one for all. Take method=lora, or a model with one."
        )
    if not has_second and which != "both":
        raise UserError(
            f"experts={which}: model={model} has one transformer for all times. Leave it out."
        )
