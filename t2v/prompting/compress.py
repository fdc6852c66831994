"""Fewer token embeddings for a text, those that say the most of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def distinct(rows: Tensor, keep: int) -> Tensor:
    """The `keep` embeddings of `rows` (`n d`) that are least alike, in their order.

    Farthest-first: the one that is least like their mean, then in turn the one whose cosine to the
    nearest chosen one is least. As in Nugget (arXiv 2310.01732) a text becomes some of its own
    contextual vectors; there a trained scorer chooses them, here their distances do.
    """
    if len(rows) <= keep:
        return rows
    unit = F.normalize(rows.float(), dim=-1)
    chosen = [int((unit @ unit.mean(0)).argmin())]
    nearest = unit @ unit[chosen[0]]  # cosine to the nearest chosen one
    while len(chosen) < keep:
        nearest[chosen[-1]] = torch.inf  # never again
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, unit @ unit[chosen[-1]])
    return rows[sorted(chosen)]
