"""Numbers that are none: found at little cost, and told apart by who gave them."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from t2v.errors import UserError

ADVICE = {
    torch.float16: "fp16 ends at 65504: take dtype=bf16 or dtype=fp32.",
    torch.bfloat16: "Take dtype=fp32; if that gives the same, its weights are damaged.",
}
WHOLE = (
    "It computed in {dtype}, so its weights or what it was given are at fault: lower "
    "guidance_scale and lora_scale, or download the weights again."
)


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor is finite, 40 to 140 times faster than `isfinite().all()`."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return True
    if isinstance(tensor, FakeTensor):  # of `t2v plan`: it has a shape and no numbers
        return True
    if tensor.dtype.itemsize == 1:  # the 8-bit floats have no minimum
        tensor = tensor.float()
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(tensor))


def refuse_bad(part: str, numbers: Tensor, dtype: torch.dtype) -> None:
    """Raise `UserError` where a part of a model gave NaN or infinite numbers.

    Args:
        part: its name.
        dtype: what it computes in; the advice fits it.
    """
    if is_finite(numbers):
        return
    bad = int((~numbers.isfinite()).sum())
    name = str(dtype).removeprefix("torch.")
    raise UserError(
        f"The {part} gave {bad} NaN or infinite numbers of {numbers.numel()}. "
        + ADVICE.get(dtype, WHOLE.format(dtype=name))
    )
