"""Message tokens: frames exchange a token each, then attend within themselves and to theirs."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.normalization import FP32LayerNorm
from einops import rearrange, reduce
from torch import Tensor, nn

from t2v.models.attention.layer import Attention
from t2v.models.attention.layout import Grid, Layout
from t2v.models.attention.sight import windows
from t2v.models.layers import Linear, add_gated, in_fp32


def message_parts(dim: int, heads: int, *, qk_norm: str, eps: float) -> dict[str, nn.Module]:
    """The layer that makes a frame's message, and the attention among messages with its norm."""
    return {
        "to_message": Linear(dim, dim),
        "norm_message": FP32LayerNorm(dim, eps),
        "attn_message": Attention(dim, heads, dim // heads, qk_norm=qk_norm, eps=eps),
    }


def message_view(rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int) -> Any:
    """Rotations of tokens and messages, those of messages, and the sight of frames with theirs.

    A message has the time of its frame and stands in its middle. It comes after the frame's tokens.
    """
    t, h, w = grid["t"], grid["h"], grid["w"]
    frames = rearrange(rotations, "b (t p) k d -> b t p k d", t=t)
    middle = h // 2 * w + w // 2
    of_messages = frames[:, :, middle]
    both = torch.cat([frames, frames[:, :, middle : middle + 1]], dim=2)
    both = rearrange(both, "b t p k d -> b (t p) k d")
    return both, of_messages, (windows((t, 1, h * w + 1), (1, -1, -1), rotations.device),)


def attend_with_messages(block: Any, x: Tensor, h: Tensor, gate: Tensor, view: Any) -> Tensor:
    """Let tokens attend within their frame and to its message, which has heard the other frames.

    X-CLIP (arXiv 2208.02816, 3.2). Its message is made of a frame's class token, which a denoiser
    has not: here it is made of the mean of the frame's tokens.
    """
    rotations, of_messages, sights = view
    t = of_messages.shape[1]
    mean = reduce(h, "b (t p) d -> b t d", "mean", t=t)
    message = mean + block.to_message(mean)
    exchanged = block.attn_message(in_fp32(block.norm_message, message), None, None, of_messages)
    frames = rearrange(h, "b (t p) d -> b t p d", t=t)
    heard = rearrange(message + exchanged, "b t d -> b t 1 d")
    both = rearrange(torch.cat([frames, heard], dim=2), "b t p d -> b (t p) d")
    out = block.attn1(both, None, None, rotations, sights=sights)
    out = rearrange(out, "b (t p) d -> b t p d", t=t)[:, :, :-1]
    return add_gated(x, rearrange(out, "b t p d -> b (t p) d"), gate)


MESSAGE = Layout(
    attend=attend_with_messages,
    motion=("to_message", "norm_message", "attn_message"),
    view=message_view,
    parts=message_parts,
    zero_start=("attn_message",),
)
