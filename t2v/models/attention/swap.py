"""Swapped attention: features of space and of time attend to each other, in turn, in 3D windows."""

from __future__ import annotations

from typing import Any

from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from t2v.models.attention.layer import Attention
from t2v.models.attention.layout import (
    Grid,
    Layout,
    along_time,
    view_within_and_along,
    within_frames,
)
from t2v.models.attention.sight import windows
from t2v.models.layers import add_gated, in_fp32


def swap_parts(dim: int, heads: int, *, qk_norm: str, eps: float) -> dict[str, nn.Module]:
    """The attention along time, and the one between features, with their norms."""
    return {
        "norm_temporal": FP32LayerNorm(dim, eps),
        "attn_temporal": Attention(dim, heads, dim // heads, qk_norm=qk_norm, eps=eps),
        "norm_swap_query": FP32LayerNorm(dim, eps),
        "norm_swap_key": FP32LayerNorm(dim, eps),
        "attn_swap": Attention(dim, heads, dim // heads, qk_norm=qk_norm, eps=eps),
    }


def swap_view(rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int) -> Any:
    """The view of factorized attention, the rotations, and the windows of `options`."""
    t, h, w = options
    sizes = (grid["t"], grid["h"], grid["w"])
    factorized = view_within_and_along(rotations, grid, options, turn)
    return factorized, rotations, (windows(sizes, (t, h, w), rotations.device),)


def attend_swapped(block: Any, x: Tensor, h: Tensor, gate: Tensor, view: Any) -> Tensor:
    """Let tokens attend within their frame, along time, then from one of the two to the other.

    The swapped cross-attention of VideoFactory (arXiv 2305.10874, 3.1): the queries are the
    features of space and the keys those of time, in the next layer of this word the other way
    round. The paper adds the answer to the queries' features; here it is added to what both made,
    since the layer goes on from there. Its output begins at zero.
    """
    (in_space, in_time), rotations, sights = view
    spatial = add_gated(x, within_frames(block.attn1, h, in_space), gate)
    temporal = spatial + along_time(
        block.attn_temporal, in_fp32(block.norm_temporal, spatial), in_time
    )
    asking, asked = (spatial, temporal) if block.turn == 0 else (temporal, spatial)
    query, key = in_fp32(block.norm_swap_query, asking), in_fp32(block.norm_swap_key, asked)
    return temporal + block.attn_swap(query, key, None, rotations, sights=sights)


# the paper's code and its window sizes are not public: all frames of 4x4 places, as of `window`
SWAP = Layout(
    attend=attend_swapped,
    motion=("norm_temporal", "attn_temporal", "norm_swap_query", "norm_swap_key", "attn_swap"),
    view=swap_view,
    parts=swap_parts,
    zero_start=("attn_temporal", "attn_swap"),
    options=(-1, 4, 4),
    turns=2,
)
