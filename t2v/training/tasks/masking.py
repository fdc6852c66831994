"""The tokens of clips and captions that training steps leave out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from t2v.config.training import MaskingConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.models.routing import Route


class Masking:
    """The choice of what is left out of the steps of a run, as a function of (seed, step, rank).

    Args:
        steps: of the whole run.
        transformer: one that attends fully where tokens are left out.

    Raises:
        UserError: the transformer attends in a layout that needs all tokens, or has no blocks left
            between those that see all.
    """

    def __init__(
        self, config: MaskingConfig, seed: int, steps: int, transformer: nn.Module
    ) -> None:
        self.config, self.seed, self.steps = config, seed, steps
        settings = transformer.config
        self.patch: tuple[int, int, int] = settings.patch_size
        self.span = (0, 0)
        if not config.ratio:
            return
        first, after = config.whole_blocks if config.form == "route" else (0, 0)
        blocks = list(getattr(transformer, "blocks", ()))
        self.span = first, len(blocks) - after
        if blocks and self.span[0] >= self.span[1]:
            raise UserError(
                f"masking.whole_blocks={list(config.whole_blocks)} of {len(blocks)} blocks leave "
                "none that sees fewer tokens. Give smaller numbers."
            )
        if not _attend_fully(blocks[first : len(blocks) - after]):
            raise UserError(
                f"masking.ratio={config.ratio}: tokens are left out of blocks of ours that attend "
                f"fully, and this is a {type(transformer).__name__} of attention="
                f"{settings.get('attention', 'its own')}. Leave masking.ratio out."
            )
        if settings.get("learned_tokens"):
            raise UserError(
                f"masking.ratio={config.ratio}: blocks of this transformer compute "
                f"{settings.learned_tokens} learned tokens, which are of all. Leave masking.ratio "
                "out."
            )

    def is_on(self, step: int) -> bool:
        """True for steps that leave something out: all but the last ones."""
        return step < self.config.until * self.steps

    def words(self, tokens: Tensor, lengths: Tensor, step: int, rank: int) -> tuple[Tensor, Tensor]:
        """Captions without some of their tokens, in their order; the end mark stays.

        Args:
            tokens: ids padded to the longest one, `b m`.
            lengths: `b`.
        """
        if not self.config.words or not self.is_on(step):
            return tokens, lengths
        generator = keyed_generator(self.seed, step, rank, "masked words")
        place = torch.arange(tokens.shape[1])
        last = rearrange(lengths, "b -> b 1") - 1
        kept = torch.rand(tokens.shape, generator=generator) >= self.config.words
        kept = (kept & (place < last)) | (place == last)
        order = (~kept).long().argsort(dim=1, stable=True)
        lengths = kept.sum(1)
        return tokens.gather(1, order)[:, : max(1, int(lengths.max()))], lengths

    def kept(
        self, shape: Sequence[int], known: Tensor | None, step: int, rank: int
    ) -> Tensor | None:
        """The video tokens that a step keeps, `b k` indices in order; None: all.

        Args:
            shape: of the latents, `b c t h w`.
            known: the mask of given latents, `b 1 t h w`; tokens given in part are never left out.
        """
        if not self.config.ratio or not self.is_on(step):
            return None
        sizes = zip(shape[2:], self.patch, strict=True)
        t, h, w = (size // patch for size, patch in sizes)
        if known is None:
            held = torch.zeros(shape[0], t, h * w, dtype=torch.bool)
        else:
            pt, ph, pw = self.patch
            tokens = "b 1 (t pt) (h ph) (w pw) -> b t (h w)"
            held = reduce(known, tokens, "max", pt=pt, ph=ph, pw=pw) > 0
        generator = keyed_generator(self.seed, step, rank, "masks")
        return kept_tokens(held, self.config, generator)

    def example(self, shape: Sequence[int], known_frames: int) -> Tensor | None:
        """As many tokens as a step keeps, the first ones, where the first frames are known."""
        if not self.config.ratio:
            return None
        sizes = zip(shape[2:], self.patch, strict=True)
        t, h, w = (size // patch for size, patch in sizes)
        places = h * w if self.config.shape == "tubes" else (t - known_frames) * h * w
        frames = t - known_frames if self.config.shape == "tubes" else 1
        count = known_frames * h * w + frames * _left(places, self.config.ratio)
        return repeat(torch.arange(count), "k -> b k", b=shape[0])

    def route(self, kept: Tensor | None, shape: Sequence[int], pictures: int) -> Route | None:
        """The way of a batch through the blocks: tokens of pictures, after the video's, are kept.

        Args:
            pictures: how many of one latent frame each clip is given.
        """
        if kept is None:
            return None
        sizes = zip(shape[2:], self.patch, strict=True)
        t, h, w = (size // patch for size, patch in sizes)
        beside = torch.arange(t * h * w, (t + pictures) * h * w, device=kept.device)
        return Route(torch.cat([kept, repeat(beside, "n -> b n", b=len(kept))], 1), *self.span)

    def weight(self, kept: Tensor, shape: Sequence[int], weight: Tensor | None) -> Tensor | None:
        """The weights of latents in the loss, `b 1 t h w`: with form=drop 0 where none is kept.

        Args:
            weight: without masks; None: all are equal.
        """
        if self.config.form == "route":
            return weight
        t, h, w = (size // patch for size, patch in zip(shape[2:], self.patch, strict=True))
        seen = torch.zeros(len(kept), t * h * w, device=kept.device).scatter(1, kept, 1.0)
        seen = rearrange(seen, "b (t h w) -> b 1 t h w", t=t, h=h)
        pt, ph, pw = self.patch
        seen = seen.repeat_interleave(pt, 2).repeat_interleave(ph, 3).repeat_interleave(pw, 4)
        return seen if weight is None else seen * weight


def _attend_fully(blocks: Sequence[Any]) -> bool:
    """True where every token sees all others in some blocks, one at least."""
    layouts = [getattr(block, "chosen", None) for block in blocks]
    return bool(layouts) and all(each is not None and each.word == "full" for each in layouts)


def kept_tokens(held: Tensor, config: MaskingConfig, generator: torch.Generator) -> Tensor:
    """The tokens of each clip that are kept, `b k` indices in order.

    Of the places that hold something unknown a share `ratio` is left out, at least one is kept.
    Known tokens are kept wherever they are. Clips of a batch keep equally many: one that would keep
    fewer, as less of it is known, keeps some more, whole tubes but for the last.

    Args:
        held: true for known tokens, `b t p`.
    """
    if config.shape == "tokens":
        held = rearrange(held, "b t p -> b 1 (t p)")
    score = torch.rand(len(held), held.shape[2], generator=generator)
    score = score.masked_fill(held.all(1), 2.0)  # places that are known whole come last
    rank = score.argsort(1).argsort(1)  # of each place
    unknown = (~held.all(1)).sum(1).tolist()
    left = torch.tensor([_left(count, config.ratio) for count in unknown])
    wanted = (rank < rearrange(left, "b -> b 1")).unsqueeze(1) | held  # b t p
    count = int(wanted.flatten(1).sum(1).max())
    order = rank.unsqueeze(1).expand(held.shape).masked_fill(held, -1)
    first = rearrange(order, "b t p -> b (t p)").argsort(dim=1, stable=True)[:, :count]
    return first.sort(1).values


def _left(places: int, ratio: float) -> int:
    """The number of places that are kept."""
    return max(1, round((1 - ratio) * places)) if places else 0
