"""The sight of tokens: groups of queries, and the keys that each group may attend to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Sight(NamedTuple):
    """The keys that each query sees: each group of queries is one row of a batched attention.

    Numbers are places of tokens in the sequence. Groups are of one size, so the last ones of a side
    that does not divide hold padding: the mask hides it as keys, `back` leaves it out as queries.

    Args:
        queries: `g q`.
        keys: `g m`.
        mask: true where a key may be attended to, `g m`, or `g q m` where the queries of a group
            see different ones; None: all of the group.
        back: where among `(g q)` the answer of each token lies, `n`.
        past: keys and values of all tokens, where those that attend are some of them.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None
    back: Tensor
    past: Past | None = None


class Past:
    """The keys and values of a sequence in one layer, as far as its tokens were read.

    Args:
        count: tokens of the whole sequence.
    """

    def __init__(self, count: int) -> None:
        self.count, self.places = count, torch.arange(count)  # the tokens that are read now
        self.kept: tuple[Tensor, Tensor] | None = None

    def joined(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep those of the tokens at `places`, `b k heads d`; return all, zeros for unread."""
        if self.kept is None:
            shape = (len(key), self.count, *key.shape[2:])
            self.kept = key.new_zeros(shape), value.new_zeros(shape)
        for whole, part in zip(self.kept, (key, value), strict=True):
            whole[:, self.places] = part
        return self.kept


def attend_in_sight(
    query: Tensor, key: Tensor, value: Tensor, sights: tuple[Sight, ...], kernel: Kernel
) -> Tensor:
    """Attention of `b n k d` in which each query sees the keys of its group alone.

    Args:
        sights: one for all heads, or one for each part of them, in equal parts.
        kernel: plain attention of query, key, value and mask (`b m` or `b q m`).
    """
    queries, keys, values = (x.tensor_split(len(sights), dim=2) for x in (query, key, value))
    seen = [
        _attend(q, k, v, sight, kernel)
        for q, k, v, sight in zip(queries, keys, values, sights, strict=True)
    ]
    return torch.cat(seen, dim=2) if len(seen) > 1 else seen[0]


def _attend(query: Tensor, key: Tensor, value: Tensor, sight: Sight, kernel: Kernel) -> Tensor:
    batch, mask = len(query), sight.mask
    if sight.past is not None:
        key, value = sight.past.joined(key, value)
    if mask is not None:
        mask = repeat(mask, "g ... -> (b g) ...", b=batch)
    x = kernel(
        _grouped(query, sight.queries), _grouped(key, sight.keys), _grouped(value, sight.keys), mask
    )
    x = rearrange(x, "(b g) q k d -> b (g q) k d", b=batch)
    return x.index_select(1, sight.back)


def _grouped(x: Tensor, places: Tensor) -> Tensor:
    # of one copy, `index_select` has the fast backward pass on a CPU
    taken = x.index_select(1, places.flatten())
    return rearrange(taken, "b (g m) k d -> (b g) m k d", g=len(places))


def windows(grid: tuple[int, int, int], sides: tuple[int, int, int], device: torch.device) -> Sight:
    """The sight of windows of `sides` (frames, height, width; -1: all) that tile the grid."""
    whole = tuple(
        min(side, size) if side > 0 else size for side, size in zip(sides, grid, strict=True)
    )
    (t, h, w), (wt, wh, ww) = grid, whole
    short = [-size % side for size, side in zip(grid, whole, strict=True)]
    places = rearrange(torch.arange(t * h * w, device=device), "(t h w) -> t h w", t=t, h=h)
    padded = F.pad(places, (0, short[2], 0, short[1], 0, short[0]), value=-1)
    names = {"wt": wt, "wh": wh, "ww": ww}
    groups = rearrange(padded, "(t wt) (h wh) (w ww) -> (t h w) (wt wh ww)", **names)
    counts = {"t": -(-t // wt), "h": -(-h // wh)}
    slots = rearrange(
        torch.arange(groups.numel(), device=device),
        "(t h w wt wh ww) -> (t wt) (h wh) (w ww)",
        **counts,
        **names,
    )
    return within(groups, slots[:t, :h, :w].flatten(), has_padding=any(short))


def within(groups: Tensor, back: Tensor, *, has_padding: bool) -> Sight:
    """The sight of groups (`g m`, -1: padding) each of whose tokens sees all others of it."""
    mask = groups >= 0 if has_padding else None
    places = groups.clamp(min=0)
    return Sight(places, places, mask, back)
