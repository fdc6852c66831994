"""The names of the kernels that a model samples with, and of the operator of its attention."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.attention import SDPBackend

from t2v.models.kernels import attention, norms, products
from t2v.models.kernels.choice import chosen, is_auto

OPS = {
    "linear": products.candidates,
    "gelu": products.gelu_candidates,
    "attention": attention.candidates,
    "attention_text": attention.few_candidates,
    "modulate": norms.modulate_candidates,
    "rms_norm": norms.rms_candidates,
    "gate": norms.gate_candidates,
}
SHORT = {"attention": "video", "attention_text": "text", "rms_norm": "rms"}  # under 100 characters
TOKENS = 256  # of the video that is asked about; an operator takes any number
TORCH = {
    SDPBackend.MATH: "torch math",
    SDPBackend.FLASH_ATTENTION: "torch flash",
    SDPBackend.EFFICIENT_ATTENTION: "torch efficient",
    SDPBackend.CUDNN_ATTENTION: "torch cudnn",
}
OF_HALF = ("rms_norm", "gate")  # in fp32 there is one way


def names_of(dtype: torch.dtype) -> str:
    """The kernels of sampling in `dtype` on this CPU, but for torch's own, as recipes tell them.

    "plain" where all are those of earlier versions. Packed weights go by "onednn": they have the
    same bits.
    """
    if not is_auto() or dtype not in (torch.float32, torch.bfloat16):
        return "plain"
    found = {}
    for op, make in OPS.items():
        if dtype == torch.bfloat16 or op not in OF_HALF:
            found[op] = chosen(op, dtype, False, make).replace("packed", "onednn")
    own = {"plain", "sdpa"}
    told = [f"{SHORT.get(op, op)} {name}" for op, name in found.items() if name not in own]
    return ", ".join(told) or "torch"


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
        kernel = attention.attention_kernel(x, x)
        if kernel != "sdpa":
            return f"t2v {kernel}"
    q = rearrange(x, "b n k d -> b k n d")
    return TORCH.get(SDPBackend(torch._fused_sdp_choice(q, q, q)), "torch")


def _of_xformers(x: Tensor) -> str:
    from xformers.ops.fmha import Inputs
    from xformers.ops.fmha.dispatch import _dispatch_fw

    return _dispatch_fw(Inputs(x, x, x), False).NAME
