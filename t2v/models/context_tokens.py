"""Tokens that a transformer learns beside its text: before the embedded prompt, and in layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import repeat
from torch import Tensor, nn
from torch.nn import functional as F

from t2v.errors import UserError

STD = 0.02  # of what tells equal tokens apart before they learn


class ContextTokens(nn.Module):
    """Tokens that are learned, `m d`, beside those of a text.

    Args:
        like: a weight of the same device and dtype.
        at_end: they follow the text; else they come before it.
        of_frames: latent frames, tokens of each, and rows of an empty prompt: so many of the first
            tokens are seen by one frame of a video alone (Reenact Anything, arXiv 2408.00458,
            inflates its cross-attention so); all frames see the rest. An empty prompt, as guidance
            has it, goes without any.
    """

    def __init__(
        self,
        count: int,
        width: int,
        like: Tensor,
        *,
        at_end: bool,
        of_frames: Sequence[int] = (0, 0, 0),
    ) -> None:
        super().__init__()
        self.frames, self.each, self.empty = of_frames
        drawn = torch.randn(count, width, dtype=like.dtype, device=like.device)
        self.tokens = nn.Parameter(STD * drawn)
        self.at_end, self.is_used = at_end, True

    def beside(self, text: Tensor) -> Tensor:
        """The text, `b m d`, with the tokens."""
        if not self.is_used:
            return text
        tokens = repeat(self.tokens.to(text), "m d -> b m d", b=len(text))
        return torch.cat([text, tokens] if self.at_end else [tokens, text], dim=1)

    def seen(self, mask: Any, text: Tensor | None = None, frames: int = 0) -> Any:
        """The mask of the text, `b m` or `b t m`, with the tokens; None: no mask.

        Args:
            text: embeddings, `b m d`; of use with tokens of frames, as `frames` is.
            frames: latent frames of the video; a longer or shorter one than the tokens are of has
                theirs spread over it.
        """
        if not self.is_used:
            return mask
        if self.frames:
            assert text is not None
            rows = (text != 0).any(2)  # b m
            said = rows.sum(1, keepdim=True) > self.empty  # b 1
            if mask is None:
                mask = rows | ~said  # of a prompt, padding would drown the few tokens
            if mask.ndim == 2:
                mask = repeat(mask, "b m -> b t m", t=frames)
            own = self._of_frames(frames).to(mask.device) & said.unsqueeze(2)
            return torch.cat([own, mask], dim=2)
        if mask is None:
            return mask
        count = len(self.tokens)
        return F.pad(mask, (0, count) if self.at_end else (count, 0), value=True)

    def _of_frames(self, frames: int) -> Tensor:
        """Tell which tokens each latent frame of a video sees, `1 t m`."""
        place = torch.arange(frames) * (self.frames - 1) / max(frames - 1, 1)
        owner = torch.arange(self.frames).repeat_interleave(self.each)
        seen = place.round().unsqueeze(1) == owner  # t m
        return F.pad(seen, (0, len(self.tokens) - len(owner)), value=True)[None]


def take_tokens(
    transformer: Any, memory: int, prefix: int, of_frames: Sequence[int] = (0, 0, 0)
) -> None:
    """Give a transformer tokens to learn, where it has none.

    Args:
        memory: of the attention to the text in each block, at the end of its keys and values.
        prefix: before the embedded prompt.
        of_frames: of these, see `ContextTokens`.

    Raises:
        UserError: it has another number of them.
    """
    embedder = transformer.condition_embedder
    first = transformer.blocks[0].attn2
    for name, count, has in (("memory", memory, first.memory), ("prefix", prefix, embedder.prefix)):
        if count and has is not None and len(has.tokens) != count:
            raise UserError(
                f"{count} {name} tokens: this model has learned {len(has.tokens)} already. Ask for "
                "as many, or take the model that they were learned on."
            )
    if memory and first.memory is None:
        for block in transformer.blocks:
            layer = block.attn2.to_k
            block.attn2.memory = ContextTokens(memory, layer.in_features, layer.weight, at_end=True)
        transformer.register_to_config(memory_tokens=memory)
    if prefix and embedder.prefix is None:
        width, like = transformer.config.text_dim, embedder.time_proj.weight
        embedder.prefix = ContextTokens(prefix, width, like, at_end=False, of_frames=of_frames)
        transformer.register_to_config(prefix_tokens=prefix, frame_tokens=list(of_frames))
        transformer._set_split()


@torch.no_grad()
def begin_memory(transformer: Any, generator: torch.Generator) -> None:
    """Have the memory of each block begin as what it sees past a prompt's end, with a little noise.

    So a model that was trained to see that, as Wan is, hardly changes.
    """
    nothing = torch.zeros(1, 1, transformer.config.text_dim)
    embedder = transformer.condition_embedder.text_embedder
    nothing = embedder(nothing.to(next(embedder.parameters())))[0]  # 1 d
    for block in transformer.blocks:
        tokens = block.attn2.memory.tokens
        noise = torch.randn(tokens.shape, generator=generator).to(tokens)
        tokens.copy_(nothing + STD * noise)


def context_tokens(transformer: nn.Module) -> Mapping[str, nn.Parameter]:
    """The tokens that a transformer learned, by the names of its weights."""
    return {
        f"{name}.tokens": module.tokens
        for name, module in transformer.named_modules()
        if isinstance(module, ContextTokens)
    }


@contextmanager
def without_tokens(transformer: nn.Module) -> Iterator[None]:
    """Inside, a transformer answers as it did before it learned tokens, to the bit.

    The masked reuse of arXiv 2203.15243: what was known before does not see the memory.
    """
    found = [each for each in transformer.modules() if isinstance(each, ContextTokens)]
    before = [each.is_used for each in found]
    for each in found:
        each.is_used = False
    try:
        yield
    finally:
        for each, was_used in zip(found, before, strict=True):
            each.is_used = was_used
