"""The steps of another package's pipeline: watched one by one, and those that are kept skipped."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from t2v.errors import UserError, shortened
from t2v.pipelines.generator import Start, Step, Watcher

State = dict[str, Tensor]
NUMBERS = {"int": int, "float": float, "bool": bool}


class Steps:
    """The steps of one call of a pipeline, which advances by `scheduler.step` alone.

    What a multistep scheduler remembers, what its steps gave and where the random numbers stand
    are the state of a call in its middle. A call that starts from a state runs from its beginning
    with each kept step's work left out: the transformers answer with their first prediction again,
    the scheduler with what it gave in the last kept step; then it goes on to the bit as it was.
    So all that a pipeline does before its loop and after it stays its own code.

    Args:
        has_callback: the call calls back after each step; else a step of the scheduler is one.
        start: the steps that are kept, or None.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        generators: Sequence[torch.Generator],
        has_callback: bool,
        watch: Watcher | None,
        start: Start | None,
    ) -> None:
        self.pipeline, self.generators = pipeline, generators
        self.scheduler, self.has_callback = pipeline.scheduler, has_callback
        self.watch, self.start = watch, start
        self.number = 0
        self.outputs: list[tuple[Any, ...]] = []  # what the scheduler gave in this step
        self.before: Tensor | None = None
        self.fresh: dict[str, Any] | None = None
        self.plain = self.scheduler.step

    @property
    def is_skipping(self) -> bool:
        return self.start is not None and self.number < self.start.step

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follow the pipeline's steps while the block calls it."""
        networks = [
            part
            for name, part in self.pipeline.components.items()
            if name.startswith("transformer") and isinstance(part, nn.Module)
        ]
        forwards = [part.forward for part in networks]
        is_own = ["forward" in vars(part) for part in networks]  # hooks of an offload stay
        self.scheduler.step = _as(self.plain, self._step)
        if self.start is not None:
            for part, forward in zip(networks, forwards, strict=True):
                part.forward = self._remembered(forward)
        try:
            yield
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            is_taken_up = self.start is None or self.number > self.start.step
            if is_taken_up or isinstance(error, UserError | torch.OutOfMemoryError):
                raise
            raise UserError(
                f"The kept state does not fit the pipeline ({shortened(repr(error), 200)}). The "
                "file is damaged, or of another version of diffusers: start over."
            ) from error
        finally:
            del self.scheduler.step
            for part, forward, own in zip(networks, forwards, is_own, strict=True):
                if own:
                    part.forward = forward
                else:
                    vars(part).pop("forward", None)

    def end_of_step(self, latents: Tensor) -> None:
        """Count a step that is done, and show it to the watcher."""
        latents, was_skipped = latents.clone(), self.is_skipping  # some loops write into theirs
        self.number += 1
        if was_skipped:
            self._restore(with_random=not self.is_skipping)
        elif self.watch is not None:
            self.watch(Step(self.number, latents, self.before, self._times(), self._state()))
        self.before, self.outputs = latents, []

    def _times(self) -> tuple[float, float] | None:
        """The times around the step, where latents lie between data at 0 and noise at 1."""
        sigmas = getattr(self.scheduler, "sigmas", None)
        if sigmas is None or len(sigmas) <= self.number or float(sigmas[0]) > 1:
            return None
        return float(sigmas[self.number - 1]), float(sigmas[self.number])

    def _step(self, *args: Any, **options: Any) -> Any:
        """In place of the scheduler's own `step`."""
        if self.fresh is None:
            values = vars(self.scheduler).items()  # lists are changed in place
            self.fresh = {
                name: list(value) if isinstance(value, list) else value for name, value in values
            }
        if self.is_skipping:
            self._restore(with_random=False)
            output = self._kept(len(self.outputs))
        else:
            output = tuple(self.plain(*args, **{**options, "return_dict": False}))
        self.outputs.append(output)
        if not self.has_callback:
            self.end_of_step(output[0])
        if options.get("return_dict", True):
            raise AssertionError("diffusers' video pipelines take the tuple")
        return output

    def _remembered(self, forward: Any) -> Any:
        """`forward`, which answers with its first prediction while steps are skipped."""
        first: dict[Any, Any] = {}

        def call(*args: Any, **options: Any) -> Any:
            if not self.is_skipping:
                return forward(*args, **options)
            tensors = (*args, *options.values())
            shapes = tuple(each.shape for each in tensors if isinstance(each, Tensor))
            if shapes not in first:
                first[shapes] = forward(*args, **options)
            return first[shapes]

        return _as(forward, call)

    def _kept(self, call: int) -> tuple[Any, ...]:
        assert self.start is not None
        found: list[Tensor] = []
        while f"step.{call}.{len(found)}" in self.start.state:
            found.append(self.start.state[f"step.{call}.{len(found)}"].clone())
        if not found:
            raise UserError(
                "The kept latents lack what the scheduler remembers of its steps. Start over."
            )
        return tuple(found)

    def _state(self) -> State:
        """All that the next step depends on, beside the latents that the pipeline shows."""
        state = {
            f"step.{call}.{place}": each
            for call, output in enumerate(self.outputs)
            for place, each in enumerate(output)
            if isinstance(each, Tensor)
        }
        assert self.fresh is not None
        for name, value in vars(self.scheduler).items():
            if name == "step" or value is self.fresh.get(name):
                continue
            state |= _tensors(f"scheduler.{name}", value)
        for place, generator in enumerate(self.generators):
            state[f"random.{place}"] = generator.get_state()
        return state

    def _restore(self, with_random: bool) -> None:
        """Bring the scheduler, and the random numbers, to where they were after the kept steps."""
        assert self.start is not None and self.fresh is not None
        for name, value in _values(self.start.state, self.fresh).items():
            if hasattr(type(self.scheduler), name):
                raise UserError(f"The kept latents name {name!r}, which no scheduler remembers.")
            setattr(self.scheduler, name, value)
        if with_random:
            for place, generator in enumerate(self.generators):
                generator.set_state(self.start.state[f"random.{place}"])


def _as(original: Callable[..., Any], replacement: Callable[..., Any]) -> Callable[..., Any]:
    """`replacement` with the signature of `original`, by which pipelines choose what to pass."""

    def call(*args: Any, **options: Any) -> Any:
        return replacement(*args, **options)

    call.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return call


def _tensors(name: str, value: Any) -> State:
    """A value of a scheduler as tensors: itself, each of a list, or a number with its kind."""
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, list):
        named = {f"{name}.{place}": each for place, each in enumerate(value)}
        return {key: each for key, each in named.items() if isinstance(each, Tensor)}
    kind = type(value).__name__
    return {f"{name}:{kind}": torch.tensor([value])} if kind in NUMBERS else {}


def _values(state: State, fresh: dict[str, Any]) -> dict[str, Any]:
    """The values of a scheduler that `_tensors` gave, over those of one that is at its start."""
    found: dict[str, Any] = {}
    for key, tensor in state.items():
        room, _, rest = key.partition(".")
        if room != "scheduler":
            continue
        name, _, kind = rest.partition(":")
        name, _, place = name.partition(".")
        if kind:
            found[name] = NUMBERS[kind](tensor.item())
        elif place:
            found.setdefault(name, list(fresh.get(name, [])))[int(place)] = tensor
        else:
            found[name] = tensor
    return found
