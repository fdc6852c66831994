"""Guidance in a part of the steps of another package's pipeline: its transformers' passes, halved.

Pipelines predict with the negative prompt and with the prompt in one pass, or in one after the
other. Outside the interval the prediction with the prompt stands for both, so that whatever weight
the pipeline gives to their difference, the prompt's alone is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor, cat
from torch.utils._pytree import tree_map

from t2v.errors import UserError
from t2v.models.caching import denoisers


@contextmanager
def guided_in(
    pipeline: DiffusionPipeline, interval: tuple[float, ...], videos: int
) -> Iterator[None]:
    """Have a pipeline guided in a part of its steps while the block calls it.

    Args:
        interval: shares of the steps from which and to which there is guidance.
        videos: that the call makes at once.

    Raises:
        UserError: the pipeline does not tell the step that it is at.
    """
    position = _position(pipeline)
    networks = denoisers(pipeline)
    owned = [vars(network).get("forward") for network in networks]  # an offload's stays
    for network in networks:
        network.forward = _Halved(network.forward, position, interval, videos)
    try:
        yield
    finally:
        for network, own in zip(networks, owned, strict=True):
            if own is None:
                del network.forward
            else:
                network.forward = own


def _position(pipeline: Any) -> Callable[[], tuple[int, int]]:
    """Gives the number of the step that a pipeline is at, and of all its steps."""
    scheduler = pipeline.scheduler
    if hasattr(type(scheduler), "step_index"):

        def by_index() -> tuple[int, int]:
            return scheduler.step_index or 0, len(scheduler.timesteps)

        return by_index
    if hasattr(type(pipeline), "current_timestep"):

        def by_timestep() -> tuple[int, int]:
            found = (scheduler.timesteps == pipeline.current_timestep).nonzero()
            return int(found[0]), len(scheduler.timesteps)

        return by_timestep
    raise UserError(
        f"guidance_interval: a {type(pipeline).__name__} with a {type(scheduler).__name__} does "
        "not tell the step that it is at. Leave guidance_interval out."
    )


class _Halved:
    """A transformer's forward that computes the prompt's part alone outside the interval.

    Of passes of all rows the second half is the prompt's; of passes one after the other the first
    of a step is, and the others are given its prediction.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        position: Callable[[], tuple[int, int]],
        interval: tuple[float, ...],
        videos: int,
    ) -> None:
        self.forward, self.position = forward, position
        self.interval, self.videos = interval, videos
        self.step, self.first = -1, None
        self.__wrapped__ = forward  # pipelines look at the names of its arguments

    def __call__(self, *args: Any, **options: Any) -> Any:
        step, steps = self.position()
        start, stop = (round(share * steps) for share in self.interval)
        if start <= step < stop:
            return self.forward(*args, **options)
        tokens = options["hidden_states"] if "hidden_states" in options else args[0]
        if len(tokens) == 2 * self.videos:
            args, options = tree_map(self._prompts, (args, options))
            return tree_map(_doubled, self.forward(*args, **options))
        if step != self.step:
            self.step, self.first = step, self.forward(*args, **options)
        return self.first

    def _prompts(self, thing: Any) -> Any:
        """The rows of the prompt, of what has rows for the negative one too."""
        has_both = isinstance(thing, Tensor) and thing.ndim and len(thing) == 2 * self.videos
        return thing[self.videos :] if has_both else thing


def _doubled(thing: Any) -> Any:
    return cat([thing, thing]) if isinstance(thing, Tensor) else thing
