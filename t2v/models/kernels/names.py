"""The names of the kernels that a model samples with."""

from __future__ import annotations

import torch

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
