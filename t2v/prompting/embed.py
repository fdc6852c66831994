"""Prompts whose signs are read, as embeddings of their tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from t2v.config.prompting import PromptingConfig
from t2v.errors import UserError
from t2v.io.prompt_words import clean_prompt
from t2v.models.text import count_tokens, encode_prompts, pad_text, unknown_words
from t2v.prompting.compress import distinct
from t2v.prompting.syntax import Blend, Clause, Scene, parse, plain
from t2v.prompting.windows import windows

logger = logging.getLogger(__name__)


def scenes_of(prompt: str, config: PromptingConfig) -> tuple[Scene, ...]:
    """The scenes of a prompt, whose signs are read where the settings say so.

    Raises:
        UserError: see `parse`.
    """
    return parse(prompt) if config.syntax else plain(clean_prompt(prompt))


def words_of(prompt: str, config: PromptingConfig) -> str:
    """A prompt without its signs, as scorers and people read it."""
    scenes = scenes_of(prompt, config)
    return ", then ".join(" and ".join(each.text for each in scene.clauses) for scene in scenes)


def refuse_times(prompts: Sequence[str], config: PromptingConfig) -> None:
    """Raise `UserError` where the prompt of a story's scene cannot be read, or has own times."""
    if not config.syntax:
        return
    for number, prompt in enumerate(prompts, 1):
        try:
            scenes = parse(prompt)
        except UserError as error:
            raise UserError(f"scene {number}: {error}") from error
        if scenes[-1].end != float("inf"):
            raise UserError(
                f"scene {number}: prompt {prompt[:60]!r} has times, and a story has those of its "
                "scenes. Make a scene of each."
            )


@dataclass(frozen=True)
class TextReader:
    """A tokenizer and a text encoder of transformers, and how they read prompts.

    Args:
        limit: tokens of a text that the model was made for.
        truncate: cut a longer one, where `config.long` refuses it.
    """

    tokenizer: Any
    encoder: Any
    limit: int
    config: PromptingConfig
    truncate: bool = False

    def check(self, prompt: str) -> tuple[Scene, ...]:
        """The scenes of a prompt that can be embedded.

        Raises:
            UserError: it cannot; nothing was computed.
        """
        if self.truncate and self.config.long != "refuse":
            raise UserError(
                f"truncate=true prompting.long={self.config.long}: what does not fit is cut off, "
                "or it counts. Give one of them."
            )
        scenes = scenes_of(prompt, self.config)
        for clause in (clause for scene in scenes for clause in scene.clauses):
            if self.config.long != "refuse":
                windows(self.tokenizer, clause.text, self.limit)
                continue
            count = count_tokens(self.tokenizer, clause.text)
            if count > self.limit and not self.truncate:
                raise UserError(
                    f"The prompt takes {count} tokens and {self.limit} fit: {clause.text[:60]!r}"
                    "... Shorten it, have it cut off (--truncate), or have all of it count "
                    "(prompting.long=windows)."
                )
        return scenes

    def count(self, scene: Scene) -> int:
        """The tokens of a scene's texts, end marks included."""
        return sum(count_tokens(self.tokenizer, clause.text) for clause in scene.clauses)

    def check_negative(self, prompt: str) -> Scene:
        """The one scene of a negative prompt.

        Raises:
            UserError: see `check`; it has several.
        """
        first, *others = self.check(prompt) if prompt.strip() else plain("")
        if others:
            raise UserError(
                f"negative_prompt={prompt[:60]!r}: it is of the whole film. Leave its times out."
            )
        return first

    def rows(self, scene: Scene) -> Tensor:
        """The embeddings of a scene's tokens, `n d`: those of its blends, one after the other.

        Each text is embedded alone. `A @w B` is `(1 - w) A + w B`, token by token, the shorter one
        with zeros behind it, as padding is; at 0 and 1 it is the one of them, bit for bit.
        """
        rows = torch.cat([self._blend(blend) for blend in scene.blends])
        if self.config.long == "compress":
            return distinct(rows, self.config.keep or self.limit)
        return rows

    def _blend(self, blend: Blend) -> Tensor:
        rows = self._clause(blend.first)
        for share, clause in blend.others:
            rows = mixed(rows, self._clause(clause), share)
        return rows

    def _clause(self, clause: Clause) -> Tensor:
        if unknown := unknown_words(self.tokenizer, clause.text):
            logger.warning("Words the model was not trained on: %s", ", ".join(unknown))
        parts = [(0, clause.text)]
        if self.config.long != "refuse":
            parts = windows(self.tokenizer, clause.text, self.limit)
        return torch.cat([self._weighted(clause, *part) for part in parts])

    def _weighted(self, clause: Clause, start: int, text: str) -> Tensor:
        """The embeddings of a part of a clause, which begins at `start` of its text, `n d`."""
        count = min(count_tokens(self.tokenizer, text), self.limit)
        encoded = encode_prompts(
            self.tokenizer, self.encoder, [text], count, truncate=self.truncate
        )
        if not clause.spans:
            return encoded[0]
        weights = list(token_weights(self.tokenizer, clause, start, text))[:count]
        return weighted(encoded[0], torch.tensor(weights))


def mixed(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Embeddings `n d` and `m d` mixed token by token, the longer of `n` and `m` of them.

    Args:
        share: of the other, in [0, 1].
    """
    if share in (0, 1):
        return other if share else one
    length = max(len(one), len(other))
    return torch.lerp(pad_text(one, length), pad_text(other, length), share)


def weighted(rows: Tensor, weights: Tensor) -> Tensor:
    """Embeddings `n d`, each scaled by its weight `n`; those of weight 1 keep their bits."""
    scaled = rows * weights.to(rows).unsqueeze(-1)
    return torch.where((weights == 1).to(rows.device).unsqueeze(-1), rows, scaled)


def token_weights(tokenizer: Any, clause: Clause, start: int, text: str) -> Iterator[float]:
    """Yield the weight of each token of a part of a clause: that of its first character.

    Raises:
        UserError: the tokenizer does not tell where its tokens lie in the text.
    """
    if not getattr(tokenizer, "is_fast", False) or clean_prompt(text) != text:
        raise UserError(
            f"prompt {text[:60]!r}: {type(tokenizer).__name__} does not tell where its tokens lie "
            "in this text, so none is weighted. Leave the weights out."
        )
    for first, last in tokenizer(text, return_offsets_mapping=True, verbose=False).offset_mapping:
        blanks = len(text[first:last]) - len(text[first:last].lstrip())
        place = start + first + blanks
        held = [each.weight for each in clause.spans if each.start <= place < each.end]
        yield held[0] if held and last > first else 1.0
