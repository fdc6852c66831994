"""The protocol of a task, and what steps and validations give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from t2v.training.engine.example import Size

SHEET_FRAMES = 5  # of each video on a validation's contact sheet


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters by name that share an algorithm and a learning rate."""

    parameters: Mapping[str, nn.Parameter]
    algorithm: Literal["muon", "adamw"]
    lr: float
    betas: tuple[float, float] = (0.9, 0.99)  # of AdamW


class Validation(NamedTuple):
    """The judgement of a task on the weights it holds.

    `losses` are those of single clips, at the same noise every time, for `significance`:
    "held_out", "training", and for a fine-tune "base".
    """

    figures: dict[str, float]
    sheet: Image.Image
    losses: dict[str, Tensor]


class Task(Protocol):
    """One kind of training: what is learned, from which batches, how it is validated and saved.

    While `validate` and `save` run, the model holds the average weights.
    """

    model: nn.Module  # holds every trained parameter; the run moves it to its device
    sources: dict[str, str]  # hashes of all inputs; a run is not resumed with others
    attention: str | None  # the kernel that its steps attend with; None: its networks' own

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The trained models by the folders that `save` writes them to."""
        ...

    def prepare(self) -> None:
        """Called once, before the first step: frozen weights are final, and nothing is split."""
        ...

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the parameters by the optimizer that steps them, with their learning rates."""
        ...

    def sample_bytes(self) -> int:
        """Bytes that a step cannot do without for each sample of its batch; it takes more."""
        ...

    @property
    def leaves_unused(self) -> bool:
        """True where the loss of some batch depends on only a part of the weights that learn."""
        ...

    def read(self, step: int, rank: int, world_size: int) -> Any:
        """One of the `world_size` batches of a step, a function of these and config.seed.

        It lies in main memory. Other processes may read it, ahead of its step.
        """
        ...

    def place(self, batch: Any) -> Any:
        """The batch that `read` gave, on the device, without waiting for it."""
        ...

    def example_batch(self, size: Size) -> Any:
        """A batch of `size` without content, made without reading data."""
        ...

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and scalars to log; all noise comes from `generator`."""
        ...

    def validate(self) -> Validation:
        """Evaluate the average weights, with the same noise and prompts each time."""
        ...

    def save(self, folder: Path) -> None:
        """Write the average weights so that they load without the training code."""
        ...


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one step; `step` counts from 1."""

    step: int
    loss: float
    grad_norm: float
    lr_factor: float
    seconds: float
    extra: dict[str, float]
