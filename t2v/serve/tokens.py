"""Tokens of a prompt, counted as the model does, without its code."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from t2v.io.prompt_words import clean_prompt, words_of
from t2v.io.text_files import read_json
from t2v.serve.checks import wrong
from t2v.serve.fields import Wanted
from t2v.serve.models import Model


class Counter:
    """The tokenizer of a model.

    Args:
        folder: that holds `tokenizer.json`.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer  # few servers count

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        file = folder / "tokenizer_config.json"
        config = read_json(file) if file.is_file() else {}
        config = config if isinstance(config, dict) else {}
        known, unknown = config.get("known_words"), config.get("unk_token")
        self.known = set(known) if isinstance(known, list) else None
        text = unknown.get("content") if isinstance(unknown, dict) else unknown
        self.unknown = self.tokenizer.token_to_id(text) if isinstance(text, str) else None
        learned = self.tokenizer.get_added_tokens_decoder()
        self.learned = [each.content for each in learned.values()]

    def count(self, prompt: str) -> int:
        """The tokens of a prompt, its end mark included."""
        return len(self._ids(clean_prompt(prompt)))

    def unknown_words(self, prompt: str) -> list[str]:
        """The words that the text encoder was not trained on, as `t2v sample` warns of them."""
        words = words_of(prompt, self.learned)
        if self.known is not None:
            return [word for word in words if word not in self.known]
        return [word for word in words if self.unknown in self._ids(word)]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text).ids)


class Counters:
    """The tokenizers of models, each read when it is first asked for."""

    def __init__(self) -> None:
        self._read: dict[Path, Counter | None] = {}
        self._lock = threading.Lock()

    def told(self, model: Model, prompt: str) -> dict[str, Any]:
        """The tokens of a prompt, how many fit, and its unknown words; null where none counts."""
        counter = self._of(model)
        return {
            "tokens": None if counter is None else counter.count(prompt),
            "most": model.max_tokens,
            "unknown": [] if counter is None else counter.unknown_words(prompt),
        }

    def check(self, wanted: Wanted, model: Model | None) -> None:
        """Refuse texts of more tokens than a model takes, before the video waits.

        Raises:
            Refused: one has more; it says how many.
        """
        if model is None or model.max_tokens is None:
            return
        scenes = wanted.story.scenes if wanted.story else ()
        texts = [("scenes", each.prompt) for each in scenes] or [("prompt", wanted.prompt)]
        negative = wanted.settings.get("negative_prompt")
        texts += [("negative_prompt", negative)] if isinstance(negative, str) else []
        for name, text in texts:
            count = self.told(model, text)["tokens"]
            if count is not None and count > model.max_tokens:
                many = f"{count:,} tokens, and the model takes {model.max_tokens:,}"
                raise wrong(name, f"has a text of {many}; shorten it")

    def _of(self, model: Model) -> Counter | None:
        if model.folder is None:
            return None
        folder = model.folder / "tokenizer"
        with self._lock:
            if folder not in self._read:
                is_there = (folder / "tokenizer.json").is_file()
                self._read[folder] = Counter(folder) if is_there else None
            return self._read[folder]
