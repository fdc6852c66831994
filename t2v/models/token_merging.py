"""Token merging: blocks of a transformer compute fewer tokens, and all tokens get their answers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS
from diffusers.hooks._helpers import TransformerBlockRegistry
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from einops import rearrange, reduce
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.attention.layouts import FULL
from t2v.models.token_learner import NAME as TOKEN_LEARNER
from t2v.models.token_matching import (
    Merge,
    match_tokens,
    merge_tokens,
    take_tokens,
    unmerge_tokens,
)

BLOCK_HOOK = "t2v_token_merging"
ATTENTION_HOOK = "t2v_token_merging_sizes"

TEXT_MASK = "encoder_attention_mask"  # of blocks that take one


@dataclass(frozen=True, kw_only=True)
class TokenMergingConfig:
    """The settings of merging; each default is where a trained model lost least for its time.

    Args:
        ratio: share of the tokens that the merged blocks do without, from 0 (the hooks are not
            even set, so the bits are the same) to 1 - 1 / stride.
        stride: every `stride`-th token is one that others merge into.
        layers: numbers of the blocks that merge. None: those after the first quarter, without the
            last. Before, a token is mostly its noise; the last gives each its own answer.
        match_every: blocks that share a matching, made of what the first of them is given. None:
            all of them. Where gradients are recorded each block makes its own.
        weigh_sizes: let a token that stands for `s` count `s` times in attention: log `s` is
            added to the scores of its key.

    Raises:
        UserError: a number is outside its range.
    """

    ratio: float = 0.3
    stride: int = 4
    layers: tuple[int, ...] | None = None
    match_every: int | None = None
    weigh_sizes: bool = True

    def __post_init__(self) -> None:
        if self.stride < 2:
            raise UserError(f"stride={self.stride}: give at least 2, every second token.")
        if not 0 <= self.ratio <= 1 - 1 / self.stride:
            raise UserError(
                f"ratio={self.ratio:g} stride={self.stride}: every {self.stride}th token stays. "
                f"Give a ratio from 0 to {1 - 1 / self.stride:g}, or a larger stride."
            )
        if self.match_every is not None and self.match_every < 1:
            raise UserError(f"match_every={self.match_every}: give at least 1, or None.")


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The arguments of a class of block that belong to its video tokens.

    Args:
        rotary: its argument with their rotary positions.
        axis: of the tokens in these. 0: one table for the whole batch, so one matching too.
        temb: its argument with the modulation.
        temb_axes: how many axes this has where it holds one for each token.
        joint: the keys of its self-attention are those of the text, then those of the video.
        mask: the axes of a mask that is added to the scores, as its attention takes it.
    """

    rotary: str
    axis: int = 1
    temb: str = "temb"
    temb_axes: int | None = 4
    joint: bool = False
    mask: str = "b m -> b 1 1 m"


# A block that is not here is refused: tokens would be without their positions in silence.
TOKENS: dict[str, Tokens] = {
    "T2VTransformerBlock": Tokens(rotary="view", mask="b m -> b m"),
    "WanTransformerBlock": Tokens(rotary="rotary_emb"),
    "LTXVideoTransformerBlock": Tokens(rotary="image_rotary_emb", temb_axes=3, mask="b m -> b 1 m"),
    "CogVideoXBlock": Tokens(
        rotary="image_rotary_emb", axis=0, temb_axes=None, joint=True, mask="b m -> b 1 m"
    ),
}


class _Shared:
    """The state that the blocks of one transformer share during a forward pass."""

    def __init__(self, config: TokenMergingConfig) -> None:
        self.config = config
        self.merge: Merge | None = None
        self.log_sizes: Tensor | None = None  # b m, while a merged block runs


class TokenMergingHook(ModelHook):
    """Let a block compute merged tokens, and add to each token what its stand-in gained.

    `x + unmerge(block(merge(x)) - merge(x))`: what is a token's own passes beside the block. As
    the mean of tokens that all gain the same gains that, blocks in a row with one matching give
    what they would if the tokens were merged before the first and un-merged after the last.
    """

    def __init__(self, shared: _Shared, tokens: Tokens, *, matches: bool) -> None:
        super().__init__()
        self.shared, self.tokens, self.matches = shared, tokens, matches

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        """Read how the block returns its tokens, and the names of its arguments."""
        self.returns = TransformerBlockRegistry.get(type(module))
        self.names = list(inspect.signature(type(module).forward).parameters)[1:]
        return module

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The block's answer, of as many tokens as it was given."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        name = self.returns.hidden_states_argument_name
        x = given[name]
        merge = self._merge(x, given)
        small = merge_tokens(x, merge)
        given |= {name: small, **self._of_kept(given, merge, x.shape[1])}
        self.shared.log_sizes = self._log_sizes(given, merge, x.dtype)
        try:
            output = self.fn_ref.original_forward(**given)
        finally:
            self.shared.log_sizes = None
        made = output[self.returns.return_hidden_states_index] if _many(output) else output
        whole = x + unmerge_tokens(made - small, merge)
        if not _many(output):
            return whole
        place = self.returns.return_hidden_states_index
        return type(output)(whole if i == place else each for i, each in enumerate(output))

    def _merge(self, x: Tensor, given: dict[str, Any]) -> Merge:
        kept = self.shared.merge
        fits = kept is not None and kept.into.shape == x.shape[:2]
        # what checkpoints compute again, from the last block to the first, is to match the same
        if self.matches or kept is None or not fits or torch.is_grad_enabled():
            temb, times = self._of_each(given, x.shape[1]), None
            if temb is not None:
                times = reduce(temb.detach().float(), "b n ... -> b n", "mean")
            config, shared = self.shared.config, self.tokens.axis == 0
            kept = match_tokens(x, config.ratio, config.stride, times, shared)
            self.shared.merge = kept
        return kept

    def _of_kept(self, given: dict[str, Any], merge: Merge, count: int) -> dict[str, Any]:
        """The arguments that belong to tokens, for those that stay."""
        made: dict[str, Any] = {}
        temb, rotary = self._of_each(given, count), given.get(self.tokens.rotary)
        mask = given.get(TEXT_MASK)
        if mask is not None and mask.shape[1:-1] == (count,):  # text that each token sees, `b n m`
            made[TEXT_MASK] = take_tokens(mask, merge)
        if temb is not None:
            made[self.tokens.temb] = take_tokens(temb, merge)
        if rotary is not None:
            take = self._take_positions
            several = isinstance(rotary, tuple | list)
            made[self.tokens.rotary] = (
                tuple(take(each, merge) for each in rotary) if several else take(rotary, merge)
            )
        return made

    def _of_each(self, given: dict[str, Any], count: int) -> Tensor | None:
        """The modulation of each token, `b n ...`, where they have one each."""
        temb = given[self.tokens.temb]
        is_of_each = temb.ndim == self.tokens.temb_axes and temb.shape[1] == count
        return temb if is_of_each else None

    def _take_positions(self, table: Tensor, merge: Merge) -> Tensor:
        if self.tokens.axis == 0:
            return table[merge.kept[0]]
        return take_tokens(table.expand(len(merge.kept), *table.shape[1:]), merge)

    def _log_sizes(self, given: dict[str, Any], merge: Merge, dtype: torch.dtype) -> Tensor | None:
        if not self.shared.config.weigh_sizes:
            return None
        logs = merge.sizes.log().to(dtype)
        if self.tokens.joint:
            text = given[self.returns.encoder_hidden_states_argument_name].shape[1]
            logs = F.pad(logs, (text, 0))
        return rearrange(logs, self.tokens.mask)


class _SizesHook(ModelHook):
    """Add the logarithms of the sizes to the scores of a block's self-attention."""

    PLACE = 2  # of `attention_mask` among the arguments of every attention layer of diffusers

    def __init__(self, shared: _Shared) -> None:
        super().__init__()
        self.shared = shared

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple, dict]:
        """The arguments of the attention layer with a mask, while its block is merged."""
        mask = self.shared.log_sizes
        if mask is None:
            return args, kwargs
        _check_backend(module)
        if len(args) > self.PLACE:
            return (*args[: self.PLACE], mask, *args[self.PLACE + 1 :]), kwargs
        return args, {**kwargs, "attention_mask": mask}


def _check_backend(attention: Any) -> None:
    """Raise `UserError` where attention adds no numbers to its scores, or is split."""
    processor = attention.processor
    if getattr(processor, "_parallel_config", None) is not None:
        raise UserError(
            "token merging does not go with a sequence that is split over processes. Leave one out."
        )
    chosen = getattr(processor, "_attention_backend", None)
    name = (chosen or _AttentionBackendRegistry.get_active_backend()[0]).value
    if not name.startswith(("native", "_native")) or name == "_native_flash":
        raise UserError(
            f'The attention backend "{name}" does not weigh tokens by what they stand for. Use '
            '"native" with token merging, or TokenMergingConfig(weigh_sizes=False).'
        )


def _many(output: Any) -> bool:
    return isinstance(output, tuple | list)


def apply_token_merging(transformer: nn.Module, config: TokenMergingConfig) -> None:
    """Have blocks of a transformer compute fewer tokens from now on, as `config` says.

    With `ratio=0` nothing is done. It goes together with `FirstBlockCacheConfig` and
    `MagCacheConfig` of diffusers, which keep what whole blocks gave, and not with caches of
    attention outputs, whose tokens would be others in the next step.

    Raises:
        UserError: a block is of a class that `TOKENS` does not know, or attends by place; there is
            no such layer; tokens are merged already.
    """
    blocks = _blocks(transformer)
    layers = _layers(config, len(blocks))
    if config.ratio == 0:
        return
    if hasattr(transformer, TOKEN_LEARNER):
        raise UserError(
            "token merging: middle blocks of this transformer compute learned tokens, which are "
            "few already. Leave it out."
        )
    if any(_attends_by_place(blocks[layer]) for layer in layers):
        raise UserError(
            f"token merging: a block among {layers} attends by place (attention other than full), "
            "and tokens that merge leave their places. Take a model with attention=full, or name "
            "layers of that kind."
        )
    shared = _Shared(config)
    every = config.match_every or len(blocks)
    for number, layer in enumerate(layers):
        block = blocks[layer]
        hook = TokenMergingHook(shared, _tokens(block), matches=number % every == 0)
        registry = HookRegistry.check_if_exists_or_initialize(block)
        if registry.get_hook(BLOCK_HOOK) is not None:
            raise UserError("Tokens are merged already. Call remove_token_merging first.")
        registry.register_hook(hook, BLOCK_HOOK)
        attention = HookRegistry.check_if_exists_or_initialize(block.attn1)
        attention.register_hook(_SizesHook(shared), ATTENTION_HOOK)
    HookRegistry.check_if_exists_or_initialize(transformer).invalidate_child_registries_cache()


def remove_token_merging(transformer: nn.Module) -> None:
    """Have the blocks of a transformer compute all tokens again."""
    registry = HookRegistry.check_if_exists_or_initialize(transformer)
    for name in (BLOCK_HOOK, ATTENTION_HOOK):
        registry.remove_hook(name, recurse=True)
    registry.invalidate_child_registries_cache()


@contextmanager
def tokens_merged(transformers: Iterable[nn.Module], ratio: float) -> Iterator[None]:
    """Have transformers compute fewer tokens while the block runs.

    Raises:
        UserError: see `TokenMergingConfig` and `apply_token_merging`.
    """
    config = TokenMergingConfig(ratio=ratio)
    with ExitStack() as stack:
        for transformer in transformers:
            apply_token_merging(transformer, config)
            stack.callback(remove_token_merging, transformer)
        yield


def _blocks(transformer: nn.Module) -> list[Any]:
    """The blocks of a transformer, in order, all of which merge their tokens alike."""
    found = [
        block
        for name, part in transformer.named_children()
        if name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS and isinstance(part, nn.ModuleList)
        for block in part
    ]
    unknown = {type(each).__name__ for each in found} - TOKENS.keys()
    if unknown or not found:
        raise UserError(
            f"token merging: {type(transformer).__name__} has blocks of the class "
            f"{', '.join(sorted(unknown)) or '(none found)'}. Those whose tokens it can merge: "
            f"{', '.join(TOKENS)}."
        )
    return found


def _attends_by_place(block: Any) -> bool:
    chosen = getattr(block, "chosen", None)  # the layout of a block of ours
    return chosen is not None and chosen.layout is not FULL


def _tokens(block: nn.Module) -> Tokens:
    return TOKENS[type(block).__name__]


def _layers(config: TokenMergingConfig, count: int) -> list[int]:
    if config.layers is None:
        return list(range(math.ceil(count / 4), max(count - 1, math.ceil(count / 4) + 1)))
    wrong = sorted(set(config.layers) - set(range(count)))
    if wrong or not config.layers:
        raise UserError(
            f"layers={config.layers}: this transformer has blocks 0 to {count - 1}. Name those."
        )
    return sorted(set(config.layers))
