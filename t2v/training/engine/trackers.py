"""Trackers, which show the curves and sheets of a run: TensorBoard, trackio, Weights & Biases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from t2v.config.training import TrainConfig
from t2v.errors import UserError

PROJECT = "t2v"


class Tracker(Protocol):
    """A place that shows a run while it lasts."""

    def log(self, step: int, figures: Mapping[str, float | str]) -> None:
        """Show the figures of a step; a text among them is a sentence, such as the verdict."""

    def image(self, step: int, name: str, picture: Image.Image) -> None:
        """Show a picture that belongs to a step."""

    def close(self) -> None:
        """Write what is left; nothing is shown after it."""


def open_tracker(config: TrainConfig, step: int) -> Tracker | None:
    """The tracker that `config.tracker` names; None where it names none.

    Args:
        step: of the checkpoint that the run goes on from, 0 for a new one.

    Raises:
        UserError: see `check_tracker`.
    """
    name = config.tracker
    if name == "auto":
        name = "tensorboard" if find_spec("tensorboard") else "none"
    if name == "none":
        return None
    check_tracker(name)
    return TRACKERS[name](config, step)


def check_tracker(name: str) -> None:
    """Raise `UserError` where the package of a tracker is missing."""
    if name in TRACKERS and find_spec(name) is None:
        raise UserError(
            f"tracker={name}: the package {name} is missing. pip install {name}, or leave tracker "
            "out: metrics.jsonl and sheets/ are always written."
        )


class TensorBoard:
    """Files in `tensorboard/` of the output; steps that a killed run logged are taken back."""

    def __init__(self, config: TrainConfig, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(config.output) / "tensorboard"
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def log(self, step: int, figures: Mapping[str, float | str]) -> None:
        for name, value in figures.items():
            if isinstance(value, str):
                self.writer.add_text(name, value, step)
            else:
                self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, picture: Image.Image) -> None:
        self.writer.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class Run:
    """A run of trackio or wandb, whose calls are the same. A run with this output is continued."""

    def __init__(self, module: Any, config: TrainConfig, **own: Any) -> None:
        self.module = module
        module.init(
            project=PROJECT, name=config.output, config=asdict(config), resume="allow", **own
        )

    def log(self, step: int, figures: Mapping[str, float | str]) -> None:
        self.module.log(dict(figures), step=step)

    def image(self, step: int, name: str, picture: Image.Image) -> None:
        self.module.log({name: self.module.Image(np.asarray(picture))}, step=step)

    def close(self) -> None:
        self.module.finish()


def _trackio(config: TrainConfig, step: int) -> Run:
    return Run(import_module("trackio"), config)


def _wandb(config: TrainConfig, step: int) -> Run:
    place = str(Path(config.output).absolute())
    run_id = sha256(place.encode()).hexdigest()[:16]
    return Run(import_module("wandb"), config, id=run_id, dir=config.output)


TRACKERS: dict[str, Callable[[TrainConfig, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": _trackio,
    "wandb": _wandb,
}
