"""Tokens of a prompt, counted as the model does, without its code."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from t2v.io.prompt_words import clean_prompt, words_of
from t2v.io.text_files import read_json
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

    def _of(self, model: Model) -> Counter | None:
        if model.folder is None:
            return None
        folder = model.folder / "tokenizer"
        with self._lock:
            if folder not in self._read:
                is_there = (folder / "tokenizer.json").is_file()
                self._read[folder] = Counter(folder) if is_there else None
            return self._read[folder]
