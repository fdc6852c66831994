"""Prompts written anew by a language model, taken only where nothing that was asked for is lost."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from t2v.config.prompting import PromptingConfig
from t2v.errors import shortened
from t2v.io.chat import NoAnswer, complete
from t2v.io.words import content_words
from t2v.models.load import loading

logger = logging.getLogger(__name__)

LONGEST = 4000  # characters of a prompt that is taken
QUOTES = "\"'`“”«»‘’ "  # noqa: RUF001  around an answer


@dataclass(frozen=True)
class Rewriter:
    """A language model at an endpoint, or of transformers, that writes prompts anew.

    As in content-preserving generation (Logeswaran et al., arXiv 1811.01135) a rewriting is taken
    only if it keeps the content; here its content words, whatever their endings.
    """

    config: PromptingConfig
    model: Any = None  # of transformers, with its tokenizer; None: an endpoint
    tokenizer: Any = None

    @staticmethod
    def of(config: PromptingConfig) -> Rewriter:
        """The rewriter that settings name.

        Raises:
            UserError: it is a model that cannot be read.
        """
        if not config.rewrite.startswith("model:"):
            return Rewriter(config)
        from transformers import AutoModelForCausalLM, AutoTokenizer  # endpoints need none

        folder = config.rewrite.removeprefix("model:")
        with loading(f"prompting.rewrite={config.rewrite}"):
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(folder).eval()
        return Rewriter(config, model, tokenizer)

    def rewrite(self, prompt: str, keep: str | None = None) -> str:
        """The prompt anew; itself where there is no answer, or one without a word of it, which is
        said. Where `keep` is given, it is the text whose words must stay, in place of the prompt.

        Raises:
            UserError: the endpoint cannot be reached or used.
        """
        try:
            answer = tidy(self._answer(prompt))
        except NoAnswer as error:
            logger.warning("%r stays as it is: no rewriting (%s)", prompt, error)
            return prompt
        if why := fault(prompt if keep is None else keep, answer):
            logger.warning("%r stays as it is: its rewriting %s", prompt, why)
            return prompt
        logger.info("%r becomes %r", prompt, answer)
        return answer

    def _answer(self, prompt: str) -> str:
        config = self.config
        if self.model is None:
            message = f"{config.instruction}\n\n{prompt}"
            return complete(config.rewrite, message, config, "prompting.rewrite")
        return self._generated(prompt)

    @torch.no_grad()
    def _generated(self, prompt: str) -> str:
        text = f"{self.config.instruction}\n\n{prompt}"
        if self.tokenizer.chat_template:
            message = [{"role": "user", "content": text}]
            text = self.tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True
            )
        else:
            text += "\n\n"
        given = self.tokenizer(text, return_tensors="pt")
        length = given.input_ids.shape[1]
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and length + self.config.max_new_tokens > most:
            raise NoAnswer(f"{length} tokens and {self.config.max_new_tokens} more; {most} fit")
        made = self.model.generate(
            input_ids=given.input_ids,
            attention_mask=given.attention_mask,
            max_new_tokens=self.config.max_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
        )
        return str(self.tokenizer.decode(made[0, length:], skip_special_tokens=True))


def tidy(answer: str) -> str:
    """An answer in one line, without the quotes around it."""
    return " ".join(answer.split()).strip(QUOTES)


def fault(prompt: str, answer: str) -> str:
    """The reason why a rewriting is not taken; empty where it is."""
    if not answer:
        return "is empty"
    if len(answer) > LONGEST:
        return f"has {len(answer):,} characters, and {LONGEST:,} are taken"
    lost = content_words(prompt) - content_words(answer)
    if not lost:
        return ""
    return f"loses {', '.join(sorted(lost))}: {shortened(answer)!r}"
