"""Latents that an interrupted run keeps: written, read, and checked before a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.files import complete
from t2v.io.text_files import check_file, parse_json
from t2v.pipelines.generator import Start


def write_latents(path: Path, start: Start, recipe: dict[str, Any]) -> None:
    """Keep latents with their steps and state, and the JSON of the recipe they belong to.

    Raises:
        UserError: the place cannot be written.
    """
    about = {"recipe": json.dumps(recipe), "step": str(start.step)}
    try:
        with complete(path) as partial:
            state = {f"state.{name}": each for name, each in start.state.items()}
            kept = {"latents": start.latents, **state}
            kept = {name: each.cpu().contiguous().clone() for name, each in kept.items()}
            save_file(kept, partial, metadata=about)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: the latents cannot be written ({error}). Make room.") from error


def read_latents(path: Path) -> tuple[Start, Any]:
    """Return what `write_latents` kept: latents with their steps and state, and the recipe's JSON.

    Raises:
        UserError: the file cannot be read, or is another one.
    """
    check_file(path, str(path))
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            latents = file.get_tensor("latents").clone()
            names = [name for name in file.keys() if name.startswith("state.")]  # noqa: SIM118
            state = {name.removeprefix("state."): file.get_tensor(name).clone() for name in names}
        start = Start(latents, int(about["step"]), state)
        return start, parse_json(about["recipe"], str(path))
    except UserError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: holds no latents of `t2v sample` ({error}).") from error


def check_latents(path: Path, kept: Start, config: SampleConfig) -> None:
    """Raise `UserError` where kept latents cannot be what they say they are."""
    latents, step, steps = kept.latents, kept.step, config.num_inference_steps or 0
    if not 0 <= step <= steps:
        raise UserError(f"{path}: says {step} of {steps} steps are done. The file is damaged.")
    plain = latents.ndim == 5 and len(latents) == 1 and latents.is_floating_point()
    if step and not plain:
        raise UserError(
            f"{path}: holds {latents.dtype} of shape {tuple(latents.shape)}; latents are one "
            "video of floating-point numbers, 1 c t h w. The file is damaged."
        )
    if step and not latents.isfinite().all():
        raise UserError(f"{path}: holds NaN or infinite numbers. The file is damaged.")
