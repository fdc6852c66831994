"""Latents that an interrupted run keeps: written, read, and checked before a run goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

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
            about["sha256"] = _digest(kept)
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
            kept = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        latents = kept["latents"]
        state = {
            name.removeprefix("state."): each
            for name, each in kept.items()
            if name.startswith("state.")
        }
        if state and about.get("sha256") != _digest(kept):  # latents alone are checked as they are
            raise UserError(f"{path}: its contents were changed. The file is damaged; start over.")
        start = Start(latents, int(about["step"]), state)
        return start, parse_json(about["recipe"], str(path))
    except UserError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: holds no latents of `t2v sample` ({error}).") from error


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the names, shapes and bytes of tensors."""
    found = hashlib.sha256()
    for name, each in sorted(tensors.items()):
        found.update(f"{name} {each.dtype} {tuple(each.shape)}".encode())
        found.update(each.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


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
    floating = [each for each in kept.state.values() if each.is_floating_point()]
    if step and not all(each.isfinite().all() for each in (latents, *floating)):
        raise UserError(f"{path}: holds NaN or infinite numbers. The file is damaged.")
