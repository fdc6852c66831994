"""The matching of tokens that are alike, and what merges and un-merges them by it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

APART = 4.0  # more than cosines can differ by: tokens of other times merge last
ROWS = 4096  # tokens compared at a time, so that memory grows with the count and not its square


class Merge(NamedTuple):
    """The matching of `n` tokens with the `m` that stand for them.

    Args:
        kept: places of the tokens that others merge into or that stay alone, ascending, `b m`.
        into: for each token, which of the `m` stands for it, `b n`.
        sizes: how many each of the `m` stands for, `b m`.
    """

    kept: Tensor
    into: Tensor
    sizes: Tensor


def match_tokens(
    x: Tensor, ratio: float, stride: int = 2, times: Tensor | None = None, shared: bool = False
) -> Merge:
    """The matching of `x` (`b n d`) that merges the tokens most alike, by their cosine.

    Every `stride`-th token is a destination. Each other one finds the destination it is most like,
    and the `ratio * n` pairs that are most alike merge (ToMe, arXiv 2210.09461, 3; with fewer
    destinations as in ToMeSD, arXiv 2303.17604).

    Args:
        times: a number that tells the time of each token, `b n`; those of different times merge
            only when no others are left.
        shared: one matching for the whole batch, by the mean cosine.
    """
    batch, count, _ = x.shape
    merged = int(ratio * count)
    features = F.normalize(x.detach().float(), dim=-1)
    if shared:
        features = rearrange(features, "b n d -> 1 n (b d)")
    is_source = torch.arange(count, device=x.device) % stride != stride - 1
    sources, targets = is_source.nonzero()[:, 0], (~is_source).nonzero()[:, 0]
    merged = min(merged, len(sources))
    score, nearest = _most_alike(features, sources, targets, times)
    best = score.topk(merged, dim=1).indices
    gone, to = sources[best], targets[nearest.gather(1, best)]  # b merged
    if shared:
        gone, to = gone.expand(batch, -1), to.expand(batch, -1)
    leaves = torch.zeros(batch, count, dtype=torch.bool, device=x.device).scatter(1, gone, True)
    kept = leaves.byte().argsort(dim=1, stable=True)[:, : count - merged]
    rank = (~leaves).cumsum(1) - 1  # of each token among those that stay
    into = rank.scatter(1, gone, rank.gather(1, to))
    sizes = torch.zeros(kept.shape, device=x.device)
    return Merge(kept, into, sizes.scatter_add(1, into, torch.ones(into.shape, device=x.device)))


def _most_alike(
    features: Tensor, sources: Tensor, targets: Tensor, times: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of each source its highest cosine with a target, and that target's number, each `b n`."""
    others = features[:, targets].mT
    scores, numbers = [], []
    for part in sources.split(ROWS):
        cosine = features[:, part] @ others
        if times is not None:
            own, theirs = times[:, part, None], times[:, None, targets]
            cosine = cosine - APART * ~torch.isclose(own, theirs, rtol=1e-3, atol=1e-6)
        best = cosine.max(-1)
        scores.append(best.values)
        numbers.append(best.indices)
    return torch.cat(scores, 1), torch.cat(numbers, 1)


def merge_tokens(x: Tensor, merge: Merge) -> Tensor:
    """The mean of the tokens that each of the `m` stands for, `b m d`, of `x`, `b n d`."""
    rows = _rows(merge.into, merge.kept.shape[1])
    total = x.new_zeros(merge.kept.numel(), x.shape[-1]).index_add(0, rows, x.flatten(0, 1))
    return total.view(*merge.kept.shape, -1) / merge.sizes.unsqueeze(-1).to(x.dtype)


def take_tokens(x: Tensor, merge: Merge) -> Tensor:
    """The rows of `x` (`b n ...`) of the tokens that stay, `b m ...`."""
    rows = _rows(merge.kept, x.shape[1])
    return x.flatten(0, 1).index_select(0, rows).unflatten(0, merge.kept.shape)


def unmerge_tokens(x: Tensor, merge: Merge) -> Tensor:
    """`x` of the `m` tokens (`b m d`) for each of the `n` that they stand for, `b n d`."""
    rows = _rows(merge.into, x.shape[1])
    return x.flatten(0, 1).index_select(0, rows).unflatten(0, merge.into.shape)


def _rows(places: Tensor, count: int) -> Tensor:
    """Places within each sample as rows of all samples: far faster than a gather of vectors."""
    first = torch.arange(len(places), device=places.device) * count
    return (places + first.unsqueeze(1)).flatten()
