"""The versions of what computes a video, as its recipe holds them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from t2v.models.kernels.names import names_of, operator_of
from t2v.models.split import split_of

PACKAGES = ("t2v", "torch", "diffusers", "transformers")


def versions(
    device: str = "cpu", denoiser: Any = None, attention: str = "native"
) -> dict[str, str]:
    """Return the versions of the packages that compute, and the operator of the attention of a
    `denoiser`; on a CPU also the number of threads, and the kernels of a `denoiser` of ours; of one
    that processes share, how.

    With another number of threads matrix products are summed in other parts, and so with another
    number of processes.

    Args:
        attention: the backend, by diffusers' names.
    """
    named = {name: _version(name) for name in PACKAGES}
    if denoiser is not None:
        named["attention"] = operator_of(denoiser, attention, torch.device(device))
    if device == "cpu":
        named["threads"] = str(torch.get_num_threads())
        if type(denoiser).__name__ == "T2VTransformer3DModel":
            named["kernels"] = names_of(denoiser.dtype)
    if (split := split_of(denoiser)) is not None:
        named["processes"] = f"{split.processes} ({split})"
    return named


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # t2v itself, run from a clone
