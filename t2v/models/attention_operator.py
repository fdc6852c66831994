"""The operator that computes a model's attention, by backend; and which sets xformers runs with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.attention import SDPBackend

from t2v.models.kernels.attention import attention_kernel

TOKENS = 256  # of the video that is asked about; an operator takes any number
TORCH = {
    SDPBackend.MATH: "torch math",
    SDPBackend.FLASH_ATTENTION: "torch flash",
    SDPBackend.EFFICIENT_ATTENTION: "torch efficient",
    SDPBackend.CUDNN_ATTENTION: "torch cudnn",
}
PAIRS = (
    "xformers 0.0.35 of PyPI runs with torch 2.10.0 of CUDA 12.8 alone: its library wants CUDA 12, "
    "which PyPI's torch from 2.11 on has not, and without it no operator runs. Install that pair: "
    'pip install -c constraints-gpu.txt "t2v[gpu]"'
)


@torch.no_grad()
def operator_of(denoiser: Any, backend: str, device: torch.device) -> str:
    """The name of the operator, such as "torch flash" or "xformers fa2F@2.5.7-pt", of the attention
    among a video's tokens by a transformer in its dtype.

    "native" leaves the choice to torch, and on a CPU to the kernels of this machine; "xformers" to
    its own table. The other backends are one operator each, which is named as they are.
    """
    head_dim = getattr(getattr(denoiser, "config", None), "attention_head_dim", None)
    dtype = getattr(denoiser, "dtype", None)
    if backend not in ("native", "xformers") or not isinstance(head_dim, int):
        return backend
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return backend  # quantized
    x = torch.empty(1, TOKENS, 1, head_dim, device=device, dtype=dtype)  # b n k d
    if backend == "xformers":
        return f"xformers {_of_xformers(x)}"
    if type(denoiser).__name__ == "T2VTransformer3DModel":
        kernel = attention_kernel(x, x)
        if kernel != "sdpa":
            return f"t2v {kernel}"
    q = rearrange(x, "b n k d -> b k n d")
    return TORCH.get(SDPBackend(torch._fused_sdp_choice(q, q, q)), "torch")


def _of_xformers(x: Tensor) -> str:
    from xformers.ops.fmha import Inputs
    from xformers.ops.fmha.dispatch import _dispatch_fw

    return _dispatch_fw(Inputs(x, x, x), False).NAME


def refusals(reason: str) -> str:
    """A refusal by xformers in one line: each operator that it asked, and why it will not do."""
    found: list[str] = []
    for line in reason.splitlines():
        if line.endswith("is not supported because:"):
            found.append(f"{line.split('`')[1]}: ")
        elif found:
            found[-1] += f"{'' if found[-1].endswith(': ') else ', '}{line.strip()}"
    return "; ".join(found) or reason.strip().splitlines()[0].rstrip(".")


def xformers_set() -> str:
    """The installed xformers and torch, and the pairs of them that run, in sentences."""
    try:
        found = f"xformers {version('xformers')}"
    except PackageNotFoundError:
        found = "no xformers"
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    return f"Installed: {found}, torch {torch.__version__} ({cuda}). {PAIRS}."
