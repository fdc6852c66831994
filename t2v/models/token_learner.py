"""Learned tokens: some blocks compute a few tokens that are learned from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.normalization import FP32LayerNorm
from einops import rearrange
from torch import Tensor, nn

from t2v.config.checks import MOST_LEARNED
from t2v.errors import UserError
from t2v.models.layers import Linear, in_fp32
from t2v.models.routing import Run

if TYPE_CHECKING:
    from t2v.models.attention.layout import Chosen

NAME = "token_learner"  # of the part of a transformer
FULL = "full"  # the layout of attention that asks for no places


class TokenLearner(nn.Module):
    """The way of all tokens into a few learned ones, and back to all
    (TokenLearner and TokenFuser, arXiv 2106.11297, 2 and 3.2).

    A learned token is a mean of all tokens, by weights that a linear layer finds in them (a softmax
    over the tokens, as in the authors' second version). Its place and its time are the same means.
    The blocks between compute the learned tokens alone. What these gained is mixed, and each token
    gets a mean of it, by weights that are found in the token. The paper gives the learned tokens
    back instead, by sigmoids; a gain is 0 where a cache leaves the blocks out.

    After `begin` each token gets the mean of what the learned tokens gained. With weights of zero
    throughout, which cannot learn, every learned token is the mean of all.

    Args:
        count: learned tokens, from 1 to `MOST_LEARNED`.
        whole_blocks: first and last blocks that compute all tokens.
        num_layers: blocks of the transformer.

    Raises:
        UserError: numbers outside these ranges, or no block is left between those.
    """

    def __init__(
        self, dim: int, count: int, whole_blocks: Sequence[int], num_layers: int, eps: float
    ) -> None:
        super().__init__()
        first, after = whole_blocks
        self.span = first, num_layers - after
        is_count = 1 <= count <= MOST_LEARNED
        if not is_count or min(whole_blocks) < 0 or not self.span[0] < self.span[1]:
            raise UserError(
                f"learned_tokens={count} whole_blocks={list(whole_blocks)} of {num_layers} blocks: "
                f"give 1 to {MOST_LEARNED:,} tokens, and first and last blocks that leave one "
                "between them."
            )
        self.norm = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.to_learned = Linear(dim, count)
        self.mix = nn.Linear(count, count, bias=False)
        self.to_all = Linear(dim, count)
        self.begin()

    @torch.no_grad()
    def begin(self) -> None:
        """Let what is learned begin as the mean of what was gained, the same for all tokens."""
        nn.init.eye_(self.mix.weight)
        nn.init.zeros_(self.to_all.weight)
        nn.init.zeros_(self.to_all.bias)

    def through(
        self, run: Run, count: int, x: Tensor, modulation: Tensor, views: Sequence[Any]
    ) -> Tensor:
        """The tokens `b n d` after `count` blocks.

        Args:
            modulation: `b 1|n 6 d`.
            views: of each block; those of the blocks between are rotations, `1|b n 1 d`.
        """
        first, last = self.span
        x = run(0, first, x, modulation, list(views))
        h = in_fp32(self.norm, x)
        weights = self.to_learned(h).float().softmax(1).mT  # b s n
        learned = _means(weights, x)
        some = _means(weights, modulation) if modulation.shape[1] > 1 else modulation
        places = _means(weights, views[first])
        inner = [places if first <= number < last else view for number, view in enumerate(views)]
        gained = run(first, last, learned, some, inner) - learned  # b s d
        gained = self.mix(gained.mT).mT
        x = x + self.to_all(h).softmax(-1).to(gained.dtype) @ gained
        return run(last, count, x, modulation, list(views))

    def check(self, layers: Sequence[Chosen]) -> None:
        """Raise `UserError` where a layer between attends by places, which the tokens have not."""
        between = layers[slice(*self.span)]
        if any(each.word != FULL for each in between):
            words = ",".join(dict.fromkeys(each.word for each in between))
            raise UserError(
                f"learned_tokens={self.mix.in_features} attention={words}: blocks {self.span[0]} "
                f"to {self.span[1] - 1} compute learned tokens, which have no places to attend by. "
                "Let these attend in full."
            )


def give_learner(transformer: Any, count: int) -> None:
    """Let the blocks between `whole_blocks` of a transformer compute `count` learned tokens.

    Raises:
        UserError: see `TokenLearner` and its `check`.
    """
    weight, config = transformer.proj_out.weight, transformer.config
    with torch.device(weight.device):
        learner = TokenLearner(
            weight.shape[1], count, config.whole_blocks, config.num_layers, config.eps
        )
    learner.check([block.chosen for block in transformer.blocks])
    transformer.token_learner = learner


@torch.no_grad()
def add_learner(
    transformer: Any,
    count: int,
    whole_blocks: Sequence[int],
    generator: torch.Generator | None,
) -> None:
    """Teach a transformer of all tokens `count` learned ones: their first weights, as in training.

    Args:
        generator: of the weights that find them; None: they would not learn.

    Raises:
        UserError: nothing would learn them, it has others, or see `give_learner`.
    """
    has, given = transformer.config.learned_tokens, f"learned_tokens={count}"
    if has:
        raise UserError(f"{given}: this model has {has} already. Leave it out.")
    if generator is None:
        raise UserError(f"{given}: the weights that find them have to learn. Give method=full.")
    transformer.register_to_config(learned_tokens=count, whole_blocks=list(whole_blocks))
    give_learner(transformer, count)
    layer = transformer.token_learner.to_learned
    drawn = nn.init.xavier_uniform_(
        torch.empty(layer.weight.shape, device="cpu"), generator=generator
    )
    layer.weight.copy_(drawn)
    nn.init.zeros_(layer.bias)
    transformer._set_split()


def _means(weights: Tensor, x: Tensor) -> Tensor:
    """Means of `x` (`1|b n ...`) by `weights` (`b s n`), `b s ...`."""
    made = weights.to(x.dtype) @ rearrange(x, "b n ... -> b n (...)")
    return made.unflatten(2, x.shape[2:])
