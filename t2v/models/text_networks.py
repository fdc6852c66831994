"""Text encoders made of others: one that is read otherwise, and two at once."""

from __future__ import annotations

from typing import Any

import torch
from einops import einsum
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput

from t2v.models.text_small import SmallText, SmallTextConfig
from t2v.models.text_tokenizers import TokenizerPair

OF_A_FILE = ("_name_or_path", "architectures", "dtype", "transformers_version")


def settings_of(encoder: PreTrainedModel) -> dict[str, Any]:
    """Return the settings that `AutoConfig.for_model` builds an equal encoder from."""
    found = encoder.config.to_dict() | {"model_type": encoder.config.model_type}
    return {name: value for name, value in found.items() if name not in OF_A_FILE}


class TextReadingConfig(PreTrainedConfig):
    """The settings of a `TextReading`, and those of the encoder in it."""

    model_type = "t2v_text_reading"

    encoder: dict[str, Any] | None = None
    layers: list[int] | None = None  # from 0, what enters the first, up; None: the last output
    whiten: bool = False
    pooled: bool = False
    hidden_size: int = 0
    vocab_size: int = 0


class TextReading(PreTrainedModel):
    """A text encoder of transformers, and what is made of its layers.

    In this order: the mean of `layers`, each row at the length that the topmost layer gives it
    (WhiteningBERT, arXiv 2104.01767, table 1, averages the first and the last); less the mean of
    the captions, times the matrix that makes their covariance the unit matrix, `whiten` (equations
    1 and 2 there); its first `hidden_size` channels; and at the last token the mean of all tokens,
    `pooled` (Sentence-T5, arXiv 2108.08877).
    """

    config_class = TextReadingConfig
    config: TextReadingConfig
    base_model_prefix = "text_reading"
    _supports_sdpa = True  # the encoder in it says for itself

    def __init__(self, config: TextReadingConfig) -> None:
        super().__init__(config)
        assert config.encoder is not None
        inner = AutoConfig.for_model(**config.encoder)
        self.encoder = AutoModelForTextEncoding.from_config(inner)
        if config.whiten:
            width = inner.hidden_size
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("whitening", torch.eye(width, config.hidden_size))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The table of the encoder."""
        table: nn.Module = self.encoder.get_input_embeddings()
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table into the encoder."""
        self.encoder.set_input_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Make the encoder's table longer or shorter, as any model of transformers does."""
        table = self.encoder.resize_token_embeddings(*args, **kwargs)
        self.config.vocab_size = table.num_embeddings
        self.config.encoder = settings_of(self.encoder)
        return table

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> BaseModelOutput:
        """Return `last_hidden_state`, `b m hidden_size`.

        Args:
            input_ids: tokens padded behind, `b m`.
            attention_mask: 1 where there is text, `b m`; None: everywhere.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = self._layers(input_ids, mask)
        if self.config.whiten:
            x = ((x - self.mean) @ self.whitening).to(x.dtype)
        x = x[..., : self.config.hidden_size]
        return BaseModelOutput(last_hidden_state=_with_mean(x, mask) if self.config.pooled else x)

    def _layers(self, ids: Tensor, mask: Tensor) -> Tensor:
        layers = self.config.layers
        found = self.encoder(
            input_ids=ids, attention_mask=mask, output_hidden_states=layers is not None
        )
        top: Tensor = found.last_hidden_state
        if layers is None:
            return top
        length = top.norm(dim=-1, keepdim=True)
        states = [*found.hidden_states[:-1], top]  # the last one before its norm is left out
        return torch.stack([F.normalize(states[n], dim=-1) * length for n in layers]).mean(0)


def _with_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Tokens `b m d`, the mean of all that are text in the place of the last of them."""
    weight = mask.to(x)
    mean = einsum(x, weight, "b m d, b m -> b d") / weight.sum(1, keepdim=True).clamp(min=1)
    places = torch.arange(x.shape[1], device=x.device)
    is_last = (places == mask.sum(1, keepdim=True) - 1).unsqueeze(-1)
    return torch.where(is_last, mean.unsqueeze(1), x)


class TextPairConfig(PreTrainedConfig):
    """The settings of a `TextPair`, and those of the two encoders in it."""

    model_type = "t2v_text_pair"

    first: dict[str, Any] | None = None
    second: dict[str, Any] | None = None
    offset: int = 0  # of the tokens of the second, see `TokenizerPair`
    hidden_size: int = 0  # of the wider one
    vocab_size: int = 0


class TextPair(PreTrainedModel):
    """Two text encoders at once: the tokens of the first, then those of the second, in one text.

    The narrower one gets channels of zeros (Stable Diffusion 3, arXiv 2403.03206, figure 2, joins
    CLIP and T5 so). For the tokens of `TokenizerPair`.
    """

    config_class = TextPairConfig
    config: TextPairConfig
    base_model_prefix = "text_pair"
    _supports_sdpa = True  # each of the two says for itself

    def __init__(self, config: TextPairConfig) -> None:
        super().__init__(config)
        assert config.first is not None and config.second is not None
        self.first, self.second = (
            AutoModelForTextEncoding.from_config(AutoConfig.for_model(**each))
            for each in (config.first, config.second)
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The table of the first."""
        table: nn.Module = self.first.get_input_embeddings()
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another table into the first."""
        self.first.set_input_embeddings(value)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> BaseModelOutput:
        """Return `last_hidden_state`, `b m hidden_size`.

        Args:
            input_ids: tokens padded behind, `b m`.
            attention_mask: 1 where there is text, `b m`; None: everywhere.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        is_second = (input_ids >= self.config.offset) & (mask > 0)
        is_first = (mask > 0) & ~is_second
        count = is_first.sum(1, keepdim=True)  # b 1
        places = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        ahead = (places + count) % input_ids.shape[1]  # the second one's tokens from place 0 on
        ids = (input_ids.gather(1, ahead) - self.config.offset).clamp(min=0)
        one = self._rows(self.first, input_ids * is_first, is_first)
        other = self._rows(self.second, ids, is_second.gather(1, ahead))
        back = (places - count) % input_ids.shape[1]
        other = other.gather(1, back.unsqueeze(-1).expand_as(other))
        rows = torch.where(is_second.unsqueeze(-1), other, one)
        return BaseModelOutput(last_hidden_state=rows)

    def _rows(self, encoder: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
        rows = encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return F.pad(rows, (0, self.config.hidden_size - rows.shape[-1]))


AutoConfig.register(SmallTextConfig.model_type, SmallTextConfig)
AutoConfig.register(TextReadingConfig.model_type, TextReadingConfig)
AutoConfig.register(TextPairConfig.model_type, TextPairConfig)
AutoModelForTextEncoding.register(SmallTextConfig, SmallText)
AutoModelForTextEncoding.register(TextReadingConfig, TextReading)
AutoModelForTextEncoding.register(TextPairConfig, TextPair)
AutoTokenizer.register(TextPairConfig, tokenizer_class=TokenizerPair)
