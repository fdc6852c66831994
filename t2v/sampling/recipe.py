"""What makes a video again: its prompt, every setting, and which weights and versions drew it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2v.config import SampleConfig
from t2v.errors import UserError
from t2v.settings import load_config

PACKAGES = ("t2v", "torch", "diffusers", "transformers")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Why this draw and no other: the draws of one prompt, and the score of each.

    Args:
        first_seed: the draws have this seed and the next `best_of - 1`.
        scorer: where the scorer is.
        name: the scorer's kind and weights.
        keep_draws: is every draw kept as a file of its own?
        scores: by seed, of the draws that are finished.
    """

    best_of: int
    first_seed: int
    scorer: str
    name: str
    keep_draws: bool
    scores: dict[str, float] = field(default_factory=dict)

    def graded(self, seed: int, score: float) -> Choice:
        """The same with one more draw."""
        return replace(self, scores=self.scores | {str(seed): score})

    @property
    def left(self) -> list[int]:
        """The seeds still to be drawn."""
        seeds = range(self.first_seed, self.first_seed + self.best_of)
        return [seed for seed in seeds if str(seed) not in self.scores]

    @property
    def best(self) -> int:
        """The seed of the highest score, the first of equal ones."""
        return int(max(self.scores, key=self.scores.__getitem__))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One video: the prompt, its own settings with every default filled in, and their setting.

    Args:
        settings: of this video alone: its seed, its file, one video.
        weights: `weights_hash` of the pipeline folder.
        lora: `file_hash` of the LoRA, where there is one.
        device: kind of the device that drew it.
        versions: of t2v and the packages that do the arithmetic; on a CPU also its `threads`.
        choice: among which draws it was chosen, where it was.
    """

    prompt: str
    settings: SampleConfig
    weights: str
    device: str
    versions: dict[str, str]
    lora: str | None = None
    choice: Choice | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the mp4 and in the file beside it."""
        return asdict(self)


def read(values: Any, source: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `values`, with `overrides` (`name=value`) over its settings.

    Raises:
        UserError: something is missing or does not fit; names `source`.
    """
    try:
        stored = {
            name: "null" if value is None else value for name, value in values["settings"].items()
        }
        rest = {name: values[name] for name in ("prompt", "weights", "device", "versions")}
        rest["lora"] = values.get("lora")  # recipes of before there were any have none
        if values.get("choice") is not None:
            rest["choice"] = Choice(**values["choice"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{source}: holds no recipe of `t2v sample` ({error} is missing)."
        ) from error
    given = [f"{name}={value}" for name, value in stored.items()]
    return Recipe(settings=load_config(SampleConfig, None, [*given, *overrides]), **rest)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}).") from error


def write_json(path: Path, recipe: Recipe) -> None:
    """Write a recipe as JSON.

    Raises:
        UserError: the place cannot be written.
    """
    try:
        path.write_text(json.dumps(recipe.to_json(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}).") from error


def versions(device: str = "cpu") -> dict[str, str]:
    """What a recipe names of its surroundings: versions, and on a CPU the number of threads.

    With another number of threads matrix products are summed in other parts.
    """
    named = {name: _version(name) for name in PACKAGES}
    return named | ({"threads": str(torch.get_num_threads())} if device == "cpu" else {})


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # t2v itself, run from a clone


def write_latents(path: Path, latents: Tensor, recipe: Recipe, step: int) -> None:
    """Keep latents that have `step` steps behind them, with the recipe they belong to.

    Raises:
        UserError: the place cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    about = {"recipe": json.dumps(recipe.to_json()), "step": str(step)}
    try:
        save_file({"latents": latents.cpu().contiguous()}, partial, metadata=about)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: the latents cannot be written ({error}). Make room.") from error


def read_latents(path: Path) -> tuple[Tensor, int, Any]:
    """What `write_latents` kept: latents, steps and the recipe's JSON.

    Raises:
        UserError: the file cannot be read, or is another one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            latents = file.get_tensor("latents").clone()
        return latents, int(about["step"]), json.loads(about["recipe"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: holds no latents of `t2v sample` ({error}).") from error
