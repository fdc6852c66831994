"""The attributes of a scene as class indices, which text encoder and oracle learn to classify."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from t2v.world.grammar import BACKGROUNDS, CAMERAS, COLOURS, MOTIONS, SHAPES, SIZES

THING: dict[str, Collection[str]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "motion": MOTIONS,
}
# name -> (its classes; its owner: 0 the scene, 1 the first thing, 2 the second)
HEADS: dict[str, tuple[tuple[str, ...], int]] = {
    "background": (tuple(BACKGROUNDS), 0),
    "camera": (tuple(CAMERAS), 0),
    "count": (("1", "2", "3"), 0),
    **{f"{name}{slot}": (tuple(table), slot) for slot in (1, 2) for name, table in THING.items()},
}


def labels(truths: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Return class indices of each head, `b`; -1 where the scene has no such thing or name.

    Args:
        truths: as `Scene.truth` gives them.
    """
    columns: dict[str, list[int]] = {name: [] for name in HEADS}
    for truth in truths:
        flat = {"background": truth["background"], "camera": truth["camera"]}
        flat["count"] = str(truth["count"])
        for slot, thing in enumerate(truth["things"][:2], start=1):
            flat |= {f"{name}{slot}": thing[name] for name in THING}
        for name, (classes, _) in HEADS.items():
            columns[name].append(-1 if flat.get(name) is None else classes.index(flat[name]))
    return {name: torch.tensor(column) for name, column in columns.items()}
