"""Factorized attention: within the frame, then along time by an attention of its own."""

from __future__ import annotations

from typing import Any

from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from t2v.models.attention.exchange import by_frames, by_places
from t2v.models.attention.layer import Attention
from t2v.models.attention.layout import (
    Layout,
    along_time,
    view_within_and_along,
    within_frames,
)
from t2v.models.layers import add_gated, in_fp32


def temporal_parts(dim: int, heads: int, *, qk_norm: str, eps: float) -> dict[str, nn.Module]:
    """The attention along time and its norm."""
    return {
        "norm_temporal": FP32LayerNorm(dim, eps),
        "attn_temporal": Attention(dim, heads, dim // heads, qk_norm=qk_norm, eps=eps),
    }


def attend_within_and_along(
    block: Any, x: Tensor, h: Tensor, gate: Tensor, view: tuple[Tensor, Tensor]
) -> Tensor:
    """Let tokens attend within their frame, then along time at their position.

    As in xGen-VideoSyn-1 (arXiv 2408.12590, 3.2). The temporal output is initialised to zero, so
    a new block treats every frame as its own clip.
    """
    in_space, in_time = view
    frames, places = in_time.shape[1], in_space.shape[1]
    x = add_gated(x, by_frames(within_frames, block.attn1, h, in_space, frames), gate)
    h = in_fp32(block.norm_temporal, x)
    return x + by_places(along_time, block.attn_temporal, h, in_time, places)


FACTORIZED = Layout(
    attend=attend_within_and_along,
    motion=("attn_temporal", "norm_temporal"),
    can_split=True,  # by frames and by places in turn
    splits_rotations=False,
    view=view_within_and_along,
    parts=temporal_parts,
    zero_start=("attn_temporal",),
)
