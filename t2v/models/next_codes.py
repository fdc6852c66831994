"""One patch of codes after the other, by a causal transformer whose keys and values are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from t2v.models.attention.causal import part_of_view
from t2v.models.attention.sight import Past
from t2v.models.code_head import in_patches, of_patches
from t2v.models.conditions import Conditions
from t2v.models.kv_cache import KVCache
from t2v.models.routing import Run

# Products of one row or two are summed in another order than those of more, so a token is read
# again with the ones before it: then cached bits are those of the whole sequence.
READ_AT_ONCE = 4


class Reading:
    """The way of some tokens through the blocks, which see earlier ones as they were read; a route
    of the transformer's forward.

    Args:
        count: tokens of the sequence.
        layers: blocks of the transformer.
    """

    def __init__(self, count: int, layers: int) -> None:
        self.pasts = [Past(count) for _ in range(layers)]
        self.places = torch.arange(count)

    def through(
        self, run: Run, count: int, x: Tensor, modulation: Tensor, views: Sequence[Any]
    ) -> Tensor:
        """The tokens `b n d` after `count` blocks; those that are not read stay as they are."""
        assert modulation.shape[1] == 1 and count == len(self.pasts)
        places = self.places.to(x.device)
        seen = []
        for past, view in zip(self.pasts, views, strict=True):
            past.places = places
            seen.append(part_of_view(view, places, past))
        return x.index_copy(1, places, run(0, count, x[:, places], modulation, seen))


class NextCodes:
    """The codes of videos that go on patch by patch.

    Args:
        transformer: a causal one.
        positive, negative: the conditions, and for guidance those to stay away from.
        scale: of guidance; up to 1 there is none.
        codes: `b t h w`; `codebook_size` for places that are not known.
        attention_kwargs: handed to the transformer.
    """

    def __init__(
        self,
        transformer: Any,
        positive: Conditions,
        negative: Conditions | None,
        scale: float,
        codes: Tensor,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.transformer, self.head, self.scale = transformer, transformer.code_head, scale
        self.patch: tuple[int, int, int] = tuple(transformer.config.patch_size)
        t, h, w = (size // step for size, step in zip(codes.shape[1:], self.patch, strict=True))
        self.grid, self.count = (t, h, w), t * h * w
        self.is_guided = negative is not None and scale > 1
        conditions = positive
        if self.is_guided:
            assert negative is not None
            conditions = Conditions.cat([negative, positive])
        self.keywords = conditions.keywords(transformer)
        self.rows = len(conditions)
        self.codes = in_patches(codes.unsqueeze(1), self.patch)[..., 0].clone()  # b n p
        self.reading = Reading(self.count, len(transformer.blocks))
        self.options = {**(attention_kwargs or {}), "kv_cache": KVCache()}

    def known(self) -> int:
        """The patches at the start that are known in all videos."""
        is_known = (self.codes < len(self.head.table)).all(dim=2).all(dim=0)
        return int(is_known.long().cumprod(dim=0).sum())

    @torch.no_grad()
    def __call__(self, uniform: Tensor, step: Any) -> Iterator[int]:
        """Yield the number of each patch after its codes are drawn.

        Args:
            uniform: numbers in [0, 1) that draw the codes, `b n p`.
            step: of the scheduler, from scores `b codes` and numbers `b` to codes `b`.
        """
        first = self.known()
        for number in range(first, self.count):
            begin = 0 if number == first else number + 1 - READ_AT_ONCE
            features = self.features(max(0, min(begin, number + 1 - READ_AT_ONCE)), number + 1)
            mine = self.codes[:, number]
            for place in range(mine.shape[1]):
                before = self.head.embed(mine[:, :place])
                scores = self.head.next_scores(features[:, number, place], before)
                drawn = step(scores, uniform[:, number, place])
                is_given = mine[:, place] < len(self.head.table)
                mine[:, place] = torch.where(is_given, mine[:, place], drawn)
            yield number

    def features(self, begin: int, end: int) -> Tensor:
        """The features `b n p f` of the patches, guided; right for those from `begin` to `end`."""
        patches = self.head.embed(self.codes)
        first = self.head.embed(torch.full_like(self.codes[:, :1], len(self.head.table)))
        shifted = torch.cat([first, patches[:, :-1]], dim=1)
        latents = of_patches(shifted, self.patch, self.grid).to(self.transformer.dtype)
        latents = latents.repeat(self.rows // len(latents), 1, 1, 1, 1)
        self.reading.places = torch.arange(begin, max(end, min(READ_AT_ONCE, self.count)))
        found = self.transformer(
            hidden_states=latents,
            timestep=latents.new_zeros(self.rows),
            route=self.reading,
            attention_kwargs=self.options,
            return_dict=False,
            **self.keywords,
        )[0]
        features = in_patches(found, self.patch)
        if not self.is_guided:
            return features
        away, near = features.chunk(2)
        return away + self.scale * (near - away)

    def videos(self) -> Tensor:
        """The codes so far, `b t h w`."""
        return of_patches(self.codes.unsqueeze(-1), self.patch, self.grid)[:, 0]
