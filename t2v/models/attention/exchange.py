"""Attention among tokens that several processes hold a part of each: by turns, and in a ring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from diffusers.models.attention_dispatch import _templated_context_parallel_attention
from einops import rearrange, repeat
from torch import Tensor, nn

Attended = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of a layer, tokens and their rotations


def by_frames(
    attended: Attended, attn: nn.Module, x: Tensor, rotations: Tensor, frames: int
) -> Tensor:
    """The output of an attention within frames, for tokens `b n d`.

    Where processes share the tokens, each computes it for some whole frames.

    Args:
        rotations: of the places of one frame, `1 p 1 d`, or of each frame, `(b t) p 1 d`.
        frames: of the whole video.
    """
    if split_over(attn) is None:
        return attended(attn, x, rotations)
    group = _group(attn)
    owners = _owners(frames, group)
    own = _of_own(rotations, owners, group)
    owner = repeat(owners, "t -> (t p)", p=rotations.shape[1])
    return _moved(attended, attn, x, own, owner, group)


def by_places(
    attended: Attended, attn: nn.Module, x: Tensor, rotations: Tensor, places: int
) -> Tensor:
    """The output of an attention along time, for tokens `b n d`.

    Where processes share the tokens, each computes it for all frames of some places.

    Args:
        rotations: of the frames of one place, `1 t 1 d`, or of each place, `(b p) t 1 d`.
        places: of one frame.
    """
    if split_over(attn) is None:
        return attended(attn, x, rotations)
    group = _group(attn)
    owners = _owners(places, group)
    own = _of_own(rotations, owners, group)
    owner = repeat(owners, "p -> (t p)", t=rotations.shape[1])
    return _moved(attended, attn, x, own, owner, group)


def split_over(attn: nn.Module) -> Any:
    """The configuration of diffusers' context parallelism, where a layer has one."""
    return getattr(attn.processor, "_parallel_config", None)


def _group(attn: nn.Module) -> dist.ProcessGroup:
    mesh = split_over(attn).context_parallel_config._flattened_mesh
    group: dist.ProcessGroup = mesh.get_group()
    return group


def _owners(count: int, group: dist.ProcessGroup) -> Tensor:
    """The process that computes for each of `count` frames or places, as equal parts as can be."""
    ranks = dist.get_world_size(group)
    parts = torch.arange(count).tensor_split(ranks)
    return torch.cat([torch.full((len(part),), rank) for rank, part in enumerate(parts)])


def _of_own(rotations: Tensor, owners: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The rotations of this process's frames or places, where each has its own."""
    if len(rotations) == 1:
        return rotations
    rows = rearrange(rotations, "(b g) ... -> b g ...", g=len(owners))
    return rows[:, owners == dist.get_rank(group)].flatten(0, 1)


def _moved(
    attended: Attended,
    attn: nn.Module,
    x: Tensor,
    rotations: Tensor,
    owner: Tensor,
    group: dist.ProcessGroup,
) -> Tensor:
    """Exchange tokens for those of the own frames or places, attend, and exchange the output.

    Args:
        owner: the process that computes for each token of the video, `n`.
    """
    ranks, here = dist.get_world_size(group), dist.get_rank(group)
    chunks = owner.tensor_split(ranks)  # as diffusers splits them
    mine = chunks[here]
    order = mine.argsort(stable=True).to(x.device)  # the tokens of each owner next to each other
    there = [int((mine == rank).sum()) for rank in range(ranks)]
    back = [int((chunk == here).sum()) for chunk in chunks]
    own = _exchanged(rearrange(x, "b n d -> n b d")[order], there, back, group)
    if len(own):
        with _alone(attn):
            own = rearrange(own, "n b d -> b n d")
            own = rearrange(attended(attn, own, rotations), "b n d -> n b d")
    found = torch.empty_like(rearrange(x, "b n d -> n b d"))
    found[order] = _exchanged(own, back, there, group)
    return rearrange(found, "n b d -> b n d").contiguous()


def _exchanged(x: Tensor, given: list[int], taken: list[int], group: dist.ProcessGroup) -> Tensor:
    """Rows for each process in exchange for those it has for this one."""
    found = x.new_empty(sum(taken), *x.shape[1:])
    dist.all_to_all_single(found, x.contiguous(), taken, given, group=group)
    return found


@contextmanager
def _alone(attn: nn.Module) -> Iterator[None]:
    """Inside, a layer attends among the tokens it is given alone."""
    processor: Any = attn.processor
    parallel, processor._parallel_config = processor._parallel_config, None
    try:
        yield
    finally:
        processor._parallel_config = parallel


def is_ring_on_cpu(parallel_config: Any, x: Tensor) -> bool:
    """True where keys and values go round a ring of processes that compute on their CPUs."""
    return x.device.type == "cpu" and parallel_config.context_parallel_config.ring_degree > 1


def ring_on_cpu(query: Tensor, key: Tensor, value: Tensor, parallel_config: Any) -> Tensor:
    """Ring attention (arXiv 2310.01889) by diffusers, with the one kernel of CPUs that also gives
    the logarithm of the sum of scores, by which the parts of a ring are put together.

    Args:
        query, key, value: `b n k d`, the tokens of this process.
    """
    x: Tensor = _templated_context_parallel_attention(
        query,
        key,
        value,
        forward_op=_with_log_sum,
        backward_op=None,
        _parallel_config=parallel_config,
    )
    return x


def _with_log_sum(
    ctx: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, Tensor]:
    """The output of attention, `b n k d`, and the log of the sum of its scores, `b n k`."""
    heads = (rearrange(x, "b n k d -> b k n d") for x in (query, key, value))
    x, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*heads)
    return rearrange(x, "b k n d -> b n k d"), rearrange(log_sum, "b k n -> b n k")
