"""The patterns of Sparse Transformers over the tokens in their order: strided and fixed."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from t2v.models.attention.layout import Grid, Layout, attend_to_seen
from t2v.models.attention.sight import Sight, within

# one of so many places of a block is a summary, which all tokens see, and at most so many are: with
# a share alone, all would see a share of all tokens
SHARE, MOST = 8, 8


def stride_of(grid: Grid, options: tuple[int, ...]) -> int:
    """The stride that is asked for; of 0 the whole number of rows nearest to sqrt(n)."""
    (asked,) = options
    count, row = math.prod(grid.values()), grid["w"]
    stride = asked or row * max(1, round(math.sqrt(count) / row))
    return min(stride, count)


def strided_view(rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int) -> Any:
    """The rotations; half of the heads see the neighbours, half every stride-th token."""
    count, stride = math.prod(grid.values()), stride_of(grid, options)
    near = neighbours(count, stride, rotations.device)
    return rotations, (near, same_phase(count, stride, rotations.device))


def fixed_view(rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int) -> Any:
    """The rotations; half of the heads see their block, half the summaries of all blocks."""
    count, stride = math.prod(grid.values()), stride_of(grid, options)
    own = blocks(count, stride, rotations.device)
    return rotations, (own, summaries(count, stride, rotations.device))


def neighbours(count: int, stride: int, device: torch.device) -> Sight:
    """The sight of tokens at most half a stride away, before and after.

    Queries are taken in blocks of a stride, with the keys of the block and half a one beside it.
    """
    half = stride // 2
    queries = _padded(count, stride, device)  # g q
    start = rearrange(torch.arange(len(queries), device=device) * stride, "g -> g 1")
    keys = start - half + torch.arange(stride + 2 * half, device=device)  # g m
    away = rearrange(keys, "g m -> g 1 m") - rearrange(queries, "g q -> g q 1")
    is_token = rearrange((keys >= 0) & (keys < count), "g m -> g 1 m")
    is_padding = rearrange(queries < 0, "g q -> g q 1")  # which sees all, so that no row is empty
    mask = (away.abs() <= half) & is_token | is_padding
    back = torch.arange(count, device=device)
    return Sight(queries.clamp(min=0), keys.clamp(0, count - 1), mask, back)


def same_phase(count: int, stride: int, device: torch.device) -> Sight:
    """The sight of tokens a whole number of strides away, before and after."""
    padded = _padded(count, stride, device)  # m l
    slots = rearrange(torch.arange(padded.numel(), device=device), "(l m) -> (m l)", l=stride)
    groups = rearrange(padded, "m l -> l m")
    return within(groups, slots[:count], has_padding=count % stride != 0)


def blocks(count: int, stride: int, device: torch.device) -> Sight:
    """The sight of tokens in the same block of a stride."""
    groups = _padded(count, stride, device)
    return within(groups, torch.arange(count, device=device), has_padding=count % stride != 0)


def summaries(count: int, stride: int, device: torch.device) -> Sight:
    """The sight of the last eighth of every block, of 8 tokens at most, by all tokens.

    The last block may be short: it is summed up by its own last tokens, or no other block saw it.
    """
    size = max(1, min(MOST, stride // SHARE))
    first = torch.arange(0, count, stride, device=device)
    end = (first + stride).clamp(max=count)
    keys = rearrange(end, "g -> g 1") - size + torch.arange(size, device=device)
    mask = keys >= rearrange(first, "g -> g 1") if count % stride else None
    if mask is not None:
        mask = rearrange(mask, "g c -> 1 (g c)")
    places = torch.arange(count, device=device)
    keys = rearrange(keys.clamp(min=0), "g c -> 1 (g c)")
    return Sight(rearrange(places, "n -> 1 n"), keys, mask, places)


def _padded(count: int, stride: int, device: torch.device) -> Tensor:
    places = F.pad(torch.arange(count, device=device), (0, -count % stride), value=-1)
    return rearrange(places, "(g l) -> g l", l=stride)


# Generating Long Sequences with Sparse Transformers (arXiv 1904.10509, 4.3), by heads of two kinds
# (4.2). Its masks are causal; a denoiser knows no order, so both look before and after, and any
# token reaches any other in two layers as there: of strided through the neighbour that lies a whole
# number of strides away, of fixed through a summary.
STRIDED = Layout(attend=attend_to_seen, view=strided_view, options=(0,), heads=2)
FIXED = Layout(attend=attend_to_seen, view=fixed_view, options=(0,), heads=2)
