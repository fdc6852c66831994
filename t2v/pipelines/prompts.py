"""Prompts and negative prompts as text embeddings."""

import logging
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2v.errors import UserError
from t2v.models.alone import alone
from t2v.models.text import count_tokens, encode_prompts, unknown_words

logger = logging.getLogger(__name__)

Prompts = str | list[str] | None


class PromptEncoding:
    """The part of a pipeline that reads prompts."""

    tokenizer: Any
    text_encoder: Any
    config: Any
    _execution_device: Any

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """The number of tokens of the prompt, and how many fit."""
        return count_tokens(self.tokenizer, prompt), self.config.max_sequence_length

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of the prompt that the text encoder was not trained on."""
        return unknown_words(self.tokenizer, prompt)

    @alone
    def encode_prompt(
        self,
        prompt: Prompts,
        negative_prompt: Prompts = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        max_sequence_length: int | None = None,
        truncate: bool | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The embeddings of the prompts and, for guidance, of the negative prompts.

        Args:
            prompt: one text or a list; ignored where `prompt_embeds` are given.
            negative_prompt: one for all or one each; None is the empty text.
            num_videos_per_prompt: rows made of each prompt, next to each other.
            max_sequence_length: tokens, instead of the saved number.
            truncate: cut a longer prompt (True) or refuse it (False). None: cut where
                `max_sequence_length` is given, as every diffusers pipeline does; else refuse.

        Returns:
            Two tensors `b m d`; the second is None without guidance.

        Raises:
            UserError: a prompt is too long, or the numbers of prompts differ.
        """
        if num_videos_per_prompt < 1:
            raise UserError(f"num_videos_per_prompt={num_videos_per_prompt}: give at least 1.")
        if truncate is None:
            truncate = max_sequence_length is not None
        length = max_sequence_length or self.config.max_sequence_length
        embed = partial(embed_prompts, self.tokenizer, self.text_encoder, truncate=truncate)
        if prompt_embeds is None:
            prompt_embeds = embed(one_each(prompt, count=1), max_length=length)
        count, length, _ = prompt_embeds.shape
        if do_classifier_free_guidance and negative_prompt_embeds is None:
            negatives = one_each(negative_prompt or "", count)
            negative_prompt_embeds = embed(negatives, max_length=length)
        check_pair(prompt_embeds, negative_prompt_embeds)
        device = device or self._execution_device

        def rows(embeds: Tensor) -> Tensor:
            return embeds.repeat_interleave(num_videos_per_prompt, dim=0).to(device, dtype)

        negative = None if negative_prompt_embeds is None else rows(negative_prompt_embeds)
        return rows(prompt_embeds), negative


def one_each(prompts: Prompts, count: int) -> list[str]:
    """A text for each of `count` videos: one for all, or the list itself."""
    return [prompts] * count if isinstance(prompts, str) else prompts or []


@torch.no_grad()
def embed_prompts(
    tokenizer: PreTrainedTokenizerBase | None,
    text_encoder: PreTrainedModel | None,
    prompts: list[str],
    max_length: int,
    truncate: bool,
) -> Tensor:
    """Return the embeddings `b m d` of `encode_prompts`; warn of words that are not known.

    Raises:
        UserError: the pipeline has no text encoder, or see `encode_prompts`.
    """
    if text_encoder is None or tokenizer is None:
        raise UserError(
            "This pipeline has no text encoder: give prompt_embeds and negative_prompt_embeds."
        )
    for prompt in dict.fromkeys(prompts):
        if words := unknown_words(tokenizer, prompt):
            logger.warning("Words the model was not trained on: %s", ", ".join(words))
    return encode_prompts(tokenizer, text_encoder, prompts, max_length, truncate=truncate)


def check_pair(positive: Tensor, negative: Tensor | None) -> None:
    """Raise `UserError` where the negative embeddings do not match the positive ones."""
    if negative is not None and negative.shape != positive.shape:
        raise UserError(
            f"Negative prompts of shape {tuple(negative.shape)} do not match prompts of shape "
            f"{tuple(positive.shape)}. Give one for all or one each."
        )
