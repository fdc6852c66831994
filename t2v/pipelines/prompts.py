"""Prompts and negative prompts as text embeddings, and as conditions of the transformer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2v.config.prompting import PromptingConfig
from t2v.errors import UserError
from t2v.models.alone import alone
from t2v.models.conditions import Conditions
from t2v.models.inputs import latent_shape
from t2v.models.text import count_tokens, encode_prompts, unknown_words
from t2v.pipelines.generator import Request

if TYPE_CHECKING:  # most prompts are taken as they stand
    from t2v.prompting.embed import TextReader
    from t2v.prompting.times import FilmTimes

logger = logging.getLogger(__name__)

Prompts = str | list[str] | None
Pair = tuple[Conditions, Conditions | None]


class PromptEncoding:
    """The part of a pipeline that reads prompts."""

    tokenizer: Any
    text_encoder: Any
    transformer: Any
    vae: Any
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

    def encode_conditions(self, prompts: Sequence[str], request: Request) -> Pair:
        """The conditions of videos of `prompts`, and for guidance those of the negative prompt."""
        assert request.guidance_scale is not None
        return self._encode(
            prompt=list(prompts),
            negative_prompt=request.negative_prompt,
            do_classifier_free_guidance=request.guidance_scale > 1
            or request.image_guidance_scale != 1,
            truncate=request.truncate,
            prompting=request.prompting,
            film=(request.num_frames, request.fps),
        )

    def _encode(
        self,
        *,
        prompting: PromptingConfig | None,
        film: tuple[int | None, float | None],
        **prompts: Any,
    ) -> Pair:
        """Make the transformer's conditions of what `encode_prompt` takes.

        Args:
            film: its frames, and how many a second.
        """
        is_read = prompting is not None and prompting.reads
        if is_read and prompts.get("prompt_embeds") is None:
            assert prompting is not None
            return self.encode_read(prompting, film, **prompts)
        text, negative_text = self.encode_prompt(**prompts, dtype=self.transformer.dtype)
        positive = Conditions(text=text)
        return positive, None if negative_text is None else positive.with_text(negative_text)

    def reader(
        self, prompting: PromptingConfig, truncate: bool = False, length: int | None = None
    ) -> TextReader:
        """The reader of the signs of prompts, with this pipeline's text encoder."""
        from t2v.prompting.embed import TextReader

        limit = length or self.config.max_sequence_length
        return TextReader(self.tokenizer, self.text_encoder, limit, prompting, truncate)

    def film_times(self, num_frames: int, fps: float) -> FilmTimes:
        """The length of a film, and of its latents."""
        from t2v.prompting.times import FilmTimes

        height, width = self.config.height, self.config.width  # the sides do not matter
        frames = latent_shape(self.transformer, self.vae, 1, num_frames, height, width)[2]
        stride = self.vae.config.scale_factor_temporal
        return FilmTimes(num_frames=num_frames, fps=fps, stride=stride, latent_frames=frames)

    @alone
    def encode_read(
        self,
        prompting: PromptingConfig,
        film: tuple[int | None, float | None],
        *,
        prompt: Prompts,
        negative_prompt: Prompts = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        max_sequence_length: int | None = None,
        truncate: bool | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
    ) -> Pair:
        """The conditions of prompts whose signs are read, see `t2v.prompting.conditions`.

        Args:
            film: its frames, and how many a second.
            prompt: and the others as in `encode_prompt`.

        Raises:
            UserError: a prompt cannot be read, or embeddings are given in its place.
        """
        from t2v.prompting.conditions import conditions  # most prompts are taken as they stand

        if prompt_embeds is not None or negative_prompt_embeds is not None:
            raise UserError(
                "prompting and embeddings are both given: embeddings have no signs to read. "
                "Leave one out."
            )
        if self.text_encoder is None or self.tokenizer is None:
            raise UserError("This pipeline has no text encoder, so it reads no prompts.")
        prompts = one_each(prompt, count=1)
        negatives = None
        if do_classifier_free_guidance:
            negatives = one_each(negative_prompt or "", len(prompts))
        num_frames, fps = film
        times = self.film_times(num_frames or self.config.num_frames, fps or self.config.fps)
        reader = self.reader(prompting, bool(truncate), max_sequence_length)
        positive, negative = conditions(reader, prompts, negatives, times)
        if positive.text_mask is not None and positive.text_mask.ndim == 3:
            refuse_split(self.transformer)

        def rows(each: Conditions) -> Conditions:
            there = each.repeat(num_videos_per_prompt)
            return there.to(self._execution_device, self.transformer.dtype)

        return rows(positive), None if negative is None else rows(negative)


def refuse_split(transformer: Any) -> None:
    """Raise `UserError` where processes share the tokens of a video, whose scenes see own texts."""
    from t2v.models.split import split_of

    split = split_of(transformer)
    if split is not None and split.sequence > 1:
        raise UserError(
            "prompt: has scenes by time, and several processes share the frames of the video. Give "
            "parallel=guidance, or start one process."
        )


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
