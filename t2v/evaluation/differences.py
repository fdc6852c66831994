"""The difference of two evaluations in one metric, prompt by prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from t2v.evaluation.intervals import bootstrap, paired_p


def difference(a: Tensor, b: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Return the means of A and B, their mean difference B - A, its interval and its p-value.

    Args:
        a, b: one value a prompt, `n`; a prompt that is nan in either does not count.
        generator: of the resampling.
    """
    known = ~(a.isnan() | b.isnan())
    a, b = a[known].double(), b[known].double()
    if len(a) < 2:
        nothing = dict.fromkeys(("a", "b", "difference", "low", "high"))
        return nothing | {"n": len(a), "chance": 1.0}
    off = b - a
    # equal differences leave nothing to resample: three times 0 does not prove 0
    low, high = bootstrap(off, generator) if off.min() < off.max() else (None, None)
    means = {"a": a.mean().item(), "b": b.mean().item(), "difference": off.mean().item()}
    return means | {"low": low, "high": high, "n": len(a), "chance": paired_p(off, generator)}
