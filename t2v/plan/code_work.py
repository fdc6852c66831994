"""The work of a step of a token generator."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from t2v.models.code_head import in_patches, is_causal
from t2v.models.next_codes import NextCodes


def code_steps(transformer: Any, shape: tuple[int, ...], steps: int) -> int:
    """The passes that latents `b c t h w` take: `steps`, or one for each patch."""
    if not is_causal(transformer):
        return steps
    patch = transformer.config.patch_size
    return math.prod(size // step for size, step in zip(shape[2:], patch, strict=True))


def code_step(transformer: Any, held: dict[str, Any], scale: float, features: Any) -> None:
    """Compute one pass.

    Args:
        held: `latents`, `positive` and `negative` conditions; takes what later passes need.
        features: gives those of all places, of a model that is not causal.
    """
    head, latents = transformer.code_head, held["latents"]
    patch = tuple(transformer.config.patch_size)
    if not is_causal(transformer):
        head.to_scores(in_patches(features(), patch))
        return
    if "run" not in held:
        codes = torch.zeros(latents.shape[0], *latents.shape[2:], dtype=torch.long)
        codes = codes.to(latents.device)
        conditions = held["positive"], held["negative"]
        held["run"] = NextCodes(transformer, *conditions, scale, codes)
    run: NextCodes = held["run"]
    found: Tensor = run.features(run.count - 1, run.count)[:, -1]
    known = head.embed(run.codes[:, -1])
    for place in range(found.shape[1]):
        head.next_scores(found[:, place], known[:, :place])
