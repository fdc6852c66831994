"""Prompts to text embeddings, with any tokenizer and text encoder of transformers."""

import logging
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2v.errors import UserError
from t2v.io.prompt_words import clean_prompt, words_of
from t2v.models.device import ready
from t2v.models.finite import refuse_bad

logger = logging.getLogger(__name__)


def count_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str) -> int:
    """The number of tokens of the prompt, its end mark included."""
    return len(tokenizer(clean_prompt(prompt), verbose=False).input_ids)


def unknown_words(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[str]:
    """The words of the prompt that the text encoder was not trained on, each once, in order.

    Words, numbers and symbols such as emoji count; punctuation does not.

    With `known_words` in its `tokenizer_config.json`, a tokenizer knows those alone; without, every
    word that it has tokens for.
    """
    words = words_of(prompt, tokenizer.get_added_vocab())
    known = tokenizer.init_kwargs.get("known_words")
    if known is not None:
        return [word for word in words if word not in known]
    unknown = tokenizer.unk_token_id
    return [word for word in words if unknown in tokenizer(word, verbose=False).input_ids]


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedModel,
    prompts: list[str],
    max_length: int,
    *,
    truncate: bool = False,
) -> Tensor:
    """The embeddings of prompts, with zeros past each end.

    Each prompt is encoded alone and at its own length: its embedding does not depend on the others,
    and nothing is computed for padding.

    Args:
        max_length: tokens of the result, `m`.
        truncate: cut a longer prompt, with a warning.

    Returns:
        `b m d`, in the encoder's dtype, where the encoder computes.

    Raises:
        UserError: a prompt is longer than `max_length`, or its embedding is not finite.
    """
    embeds = {}
    for prompt in dict.fromkeys(prompts):
        if (count := count_tokens(tokenizer, prompt)) > max_length:
            _refuse_or_warn(prompt, count, max_length, truncate)
        ids = tokenizer(clean_prompt(prompt), truncation=True, max_length=max_length).input_ids
        text = encode_alone(encoder, ids)
        refuse_bad("text encoder", text, encoder.dtype)
        embeds[prompt] = pad_text(text, max_length)  # m d
    return torch.stack([embeds[prompt] for prompt in prompts])


def encode_alone(encoder: PreTrainedModel, ids: Sequence[int]) -> Tensor:
    """The embedding of one text's tokens, `m d`, where the encoder computes."""
    # some tokenizers give no tokens for an empty text, and encoders need at least one
    tokens = torch.tensor([list(ids) or [0]], device=ready(encoder))
    lengths = torch.tensor([tokens.shape[1]], device=tokens.device)
    return encode_tokens(encoder, tokens, lengths)[0, : len(ids)]


def encode_tokens(encoder: nn.Module, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Embeddings `b m d` with zeros past each text's end, as Wan 2.1 has them.

    Args:
        encoder: any text encoder of transformers.
        tokens: ids padded to the longest of the batch, `b m`.
        lengths: how many of them are real, `b`.
    """
    mask = torch.arange(tokens.shape[1], device=tokens.device) < rearrange(lengths, "b -> b 1")
    text = encoder(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    return text * rearrange(mask, "b m -> b m 1")


def pad_text(text: Tensor, length: int) -> Tensor:
    """Embeddings `... m d` with rows of zeros behind them, `... length d`."""
    return F.pad(text, (0, 0, 0, length - text.shape[-2]))


def _refuse_or_warn(prompt: str, count: int, limit: int, truncate: bool) -> None:
    start = f"{prompt[:60]!r}..."
    if not truncate:
        raise UserError(
            f"The prompt takes {count} tokens and {limit} fit: {start} "
            "Shorten it, or have it cut off (truncate=True, --truncate)."
        )
    logger.warning("%d of %d tokens were cut off: %s", count - limit, count, start)
