"""Three small text encoders that need no download: hashed n-grams, bytes, and an average."""

from __future__ import annotations

from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

SmallKind = Literal["ngrams", "bytes", "average"]
PRIME, MODULUS = 1_000_003, 2**31 - 1  # of the rolling hash; products stay within 64 bits


class SmallTextConfig(PreTrainedConfig):
    """The settings of a `SmallText`; the defaults are those of the world's captions."""

    model_type = "t2v_small_text"

    kind: str = "average"  # a `SmallKind`
    vocab_size: int = 512
    hidden_size: int = 192
    num_hidden_layers: int = 0
    buckets: int = 8192  # rows of the hashed table, of kind="ngrams"
    longest: int = 3  # tokens of the longest n-gram
    kernel_size: int = 7  # tokens that a convolution sees, of kind="bytes"
    initializer_range: float = 0.07


class SmallText(PreTrainedModel):
    """A small text encoder with the interface of those of transformers.

    - "ngrams" (sent2vec, arXiv 1703.02507, section 2.1): a token is the mean of the embeddings of
      the n-grams that end with it. Those of several tokens share the rows of a table by a hash, so
      any text has some. Without layers, and without training a random projection of n-grams.
    - "bytes" (character-level convolutions, arXiv 1509.01626; dilated as in ByteNet, arXiv
      1610.10099, section 3.2): for a tokenizer whose tokens are bytes.
    - "average" (deep averaging network, Universal Sentence Encoder, arXiv 1803.11175, section
      3.2): the mean of all embeddings, beside that of the token, through feed-forward layers. It
      knows no order, so it cannot tell which colour is of which thing.
    """

    config_class = SmallTextConfig
    config: SmallTextConfig
    base_model_prefix = "small_text"
    _supports_sdpa = True  # there is no attention that could not
    _can_record_outputs = None

    def __init__(self, config: SmallTextConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.hashed = nn.Embedding(config.buckets, config.hidden_size) if self._hashes else None
        self.dropout = nn.Dropout(0.0)  # training may set one
        count = range(config.num_hidden_layers)
        self.layers = nn.ModuleList([Layer(config, 2**n) for n in count])
        self.norm = nn.RMSNorm(config.hidden_size, eps=1e-6)
        self.post_init()

    @property
    def _hashes(self) -> bool:
        return self.config.kind == "ngrams"

    def get_input_embeddings(self) -> nn.Module:
        """The table of single tokens."""
        return self.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table of single tokens in its place."""
        assert isinstance(value, nn.Embedding)
        self.embed = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        **_: Any,
    ) -> BaseModelOutput:
        """Return `last_hidden_state`, `b m d`; a text's rows do not depend on the padding.

        Args:
            input_ids: tokens padded behind, `b m`.
            attention_mask: 1 where there is text, `b m`; None: everywhere.
            output_hidden_states: also return what enters each layer and leaves the last one.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = rearrange(mask, "b m -> b m 1").to(self.embed.weight)
        x = self.embed(input_ids)
        if self.hashed is not None:
            x = x + sum(self.hashed(each) * there for each, there in self._ngrams(input_ids))
            x = x / self._counts(x.shape[1], x)
        elif self.config.kind == "average":
            x = x + (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        x = self.dropout(x)
        states = [x]
        for layer in self.layers:
            x = layer(x, real)
            states.append(x)
        hidden = tuple(states) if output_hidden_states else None
        return BaseModelOutput(last_hidden_state=self.norm(x), hidden_states=hidden)

    def _ngrams(self, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The row of each n-gram of 2 tokens and more by its last token, `b m`; where it is one."""
        found, name = [], ids + 1
        for n in range(1, self.config.longest):
            name = (name * PRIME + F.pad(ids, (n, 0))[:, : ids.shape[1]] + 1) % MODULUS
            there = torch.arange(ids.shape[1], device=ids.device) >= n
            found.append((name % self.config.buckets, rearrange(there, "m -> m 1")))
        return found

    def _counts(self, length: int, like: Tensor) -> Tensor:
        """The number of n-grams that end with each token, `m 1`."""
        places = torch.arange(1, length + 1, device=like.device)
        return rearrange(places.clamp(max=self.config.longest), "m -> m 1").to(like)


class Layer(nn.Module):
    """A residual layer of two maps; of kind="bytes" the first sees neighbours, `dilation` apart."""

    def __init__(self, config: SmallTextConfig, dilation: int) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.kernel_size
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.mix: nn.Module = nn.Linear(width, 2 * width)
        if config.kind == "bytes":
            padding = dilation * (kernel // 2)
            self.mix = nn.Conv1d(width, width, kernel, dilation=dilation, padding=padding)
        self.out = nn.Linear(width if config.kind == "bytes" else 2 * width, width)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        h = self.norm(x) * real  # b m d
        if isinstance(self.mix, nn.Conv1d):
            h = rearrange(self.mix(rearrange(h, "b m d -> b d m")), "b d m -> b m d")
        else:
            h = self.mix(h)
        return x + self.dropout(self.out(F.gelu(h)))


LAYERS: dict[SmallKind, int] = {"ngrams": 0, "bytes": 4, "average": 2}


def build_small_text(kind: SmallKind, vocabulary: int) -> SmallText:
    """Build an untrained text encoder of ours, 192 wide, from torch's global random state."""
    return SmallText(
        SmallTextConfig(kind=kind, vocab_size=vocabulary, num_hidden_layers=LAYERS[kind])
    )
