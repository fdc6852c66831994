"""diffusers' `callback_on_step_end`: it is shown tensors after each step and may replace them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from t2v.errors import UserError
from t2v.models.conditions import Conditions

Function = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]
TENSORS = ("latents", "prompt_embeds", "negative_prompt_embeds")


def step_callback(function: Function | None, names: Sequence[str]) -> StepCallback | None:
    """What a caller gives as `callback_on_step_end`, with the tensors it asks for.

    Args:
        names: of the tensors; diffusers' own callback classes name theirs themselves.

    Raises:
        UserError: there is no tensor of such a name.
    """
    names = getattr(function, "tensor_inputs", names)
    if unknown := [name for name in names if name not in TENSORS]:
        raise UserError(
            f"callback_on_step_end_tensor_inputs={unknown}: choose from {list(TENSORS)}."
        )
    return None if function is None else StepCallback(function, names)


@dataclass(frozen=True)
class StepCallback:
    """A callback and the tensors it asks for, some of `TENSORS`."""

    function: Function
    names: Sequence[str]

    def __call__(
        self,
        pipeline: Any,
        index: int,
        timestep: Tensor,
        latents: Tensor,
        positive: Conditions,
        negative: Conditions | None,
    ) -> tuple[Tensor, Conditions, Conditions | None]:
        """Latents and conditions for the next step, with the tensors that it gives back."""
        tensors: dict[str, Any] = {
            "latents": latents,
            "prompt_embeds": positive.text,
            "negative_prompt_embeds": None if negative is None else negative.text,
        }
        shown = {name: tensors[name] for name in self.names}
        tensors |= self.function(pipeline, index, timestep, shown) or {}
        positive = positive.with_text(tensors["prompt_embeds"])
        if negative is not None:
            negative = negative.with_text(tensors["negative_prompt_embeds"])
        return tensors["latents"], positive, negative
