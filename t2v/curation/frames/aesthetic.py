"""The aesthetic score of pictures, by a transformers model that the user names."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from t2v.errors import UserError


def aesthetic(stills: np.ndarray, model: str) -> float:
    """The mean score of pictures, `n h w c` uint8 RGB.

    A head with one output gives the score itself; several outputs are ratings from 1 on, and the
    score is their mean under the softmax (NIMA, Talebi and Milanfar 2018, section 3).

    Raises:
        UserError: `model` is neither a folder nor a hub id of an image classifier.
    """
    import torch

    processor, head = _load(model)
    with torch.no_grad():
        logits = head(**processor(images=list(stills), return_tensors="pt")).logits.float()
    if logits.shape[1] == 1:
        return float(logits.mean())
    ratings = torch.arange(1, logits.shape[1] + 1, dtype=torch.float32)
    return float((logits.softmax(1) @ ratings).mean())


@lru_cache(maxsize=1)
def _load(model: str) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from t2v.models.load import load_part

    try:
        processor = AutoImageProcessor.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UserError(
            f"quality.aesthetic_model={model}: cannot be loaded. Give a folder or a hub id of an "
            f"image classifier of transformers. {error}"
        ) from error
    what, kind = f"quality.aesthetic_model={model}", AutoModelForImageClassification
    return processor, load_part(what, kind, model, heads=True).eval()
