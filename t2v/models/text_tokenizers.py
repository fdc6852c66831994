"""Tokenizers of text encoders of ours: bytes, and two tokenizers in one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    BatchEncoding,
    PreTrainedTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from t2v.errors import UserError

MARKS = ["<pad>", "</s>"]
PARTS = ("first", "second")  # folders of a pair


def byte_tokenizer(known: Sequence[str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer whose tokens are the bytes of a text, in lower case; it is not trained.

    Args:
        known: the words that the text encoder is trained on, see `unknown_words`.
    """
    names = [*MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: n for n, name in enumerate(names)}, merges=[]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", known_words=list(known)
    )


class TokenizerPair(PreTrainedTokenizer):
    """Two tokenizers: the tokens of the first, then those of the second, numbered on behind.

    Args:
        first, second: any of transformers.
        offset: the number of the second one's token 0; at least as many as the first one has.

    A text that is to be cut keeps equally many tokens of both, at most.
    """

    def __init__(
        self,
        first: PreTrainedTokenizerBase,
        second: PreTrainedTokenizerBase,
        offset: int,
    ) -> None:
        self.both, self.offset = (first, second), offset
        lists = [each.init_kwargs.get("known_words") for each in self.both]
        known = {} if None in lists else {"known_words": sorted({*lists[0], *lists[1]})}
        # that of diffusers' own kind of tokenizer would look for a vocabulary
        PreTrainedTokenizerBase.__init__(self, pad_token=str(first.pad_token), **known)
        self.init_kwargs |= known

    @property
    def is_fast(self) -> bool:
        """True where both tell where their tokens lie in a text."""
        return all(each.is_fast for each in self.both)

    @property
    def vocab_size(self) -> int:
        """The number of all tokens, with those between the two that are none."""
        return self.offset + len(self.both[1])

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def unk_token_id(self) -> int | None:
        """The first one's token of an unknown word."""
        found: int | None = self.both[0].unk_token_id
        return found

    @property
    def pad_token_id(self) -> int:
        """The first one's token of padding."""
        return int(self.both[0].pad_token_id or 0)

    def get_vocab(self) -> dict[str, int]:
        """The tokens of the first; the second may name others the same."""
        return dict(self.both[0].get_vocab())

    def get_added_vocab(self) -> dict[str, int]:
        """The words that were added to the first."""
        return dict(self.both[0].get_added_vocab())

    def add_tokens(self, *_: Any, **__: Any) -> int:
        """Raise `UserError`: a word cannot be learned by two encoders at once."""
        raise UserError(
            "New words and soft prompts are learned by one text encoder, and this model has two. "
            "Leave concept and soft_prompt out, or take a model with one."
        )

    def __call__(
        self,
        text: str | Sequence[str],
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_offsets_mapping: bool = False,
        add_special_tokens: bool = True,
        **_: Any,
    ) -> BatchEncoding:
        """Return `input_ids` and `attention_mask` of a text or several, as transformers does."""
        texts = [text] if isinstance(text, str) else list(text)
        how = {"add_special_tokens": add_special_tokens, "verbose": False}
        if return_offsets_mapping:
            how["return_offsets_mapping"] = True
        rows = [self._row(each, max_length if truncation else None, how) for each in texts]
        if padding or return_tensors:
            longest = max(len(row["input_ids"]) for row in rows)
            if padding == "max_length" and max_length is not None:
                longest = max_length
            for row in rows:
                missing = longest - len(row["input_ids"]) if padding else 0
                row["input_ids"] += [self.pad_token_id] * missing
                row["attention_mask"] += [0] * missing
        if isinstance(text, str) and return_tensors is None:
            return BatchEncoding(rows[0])
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
        if return_tensors == "pt":
            columns = {name: torch.tensor(column) for name, column in columns.items()}
        return BatchEncoding(columns)

    def _row(self, text: str, most: int | None, how: dict[str, Any]) -> dict[str, list[Any]]:
        first, second = (each(text, **how) for each in self.both)
        if most is not None and len(first.input_ids) + len(second.input_ids) > most:
            cut = {"truncation": True, "max_length": most // 2}
            first, second = (each(text, **how, **cut) for each in self.both)
        ids = [*first.input_ids, *(each + self.offset for each in second.input_ids)]
        row = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if "return_offsets_mapping" in how:
            row["offset_mapping"] = [*first.offset_mapping, *second.offset_mapping]
        return row

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> tuple[str, ...]:
        """Write both into folders of their own, and what joins them."""
        folder = Path(save_directory)
        files = [
            file
            for name, each in zip(PARTS, self.both, strict=True)
            for file in each.save_pretrained(folder / name, **kwargs)
        ]
        about = folder / "tokenizer_config.json"
        settings = {"tokenizer_class": type(self).__name__, "offset": self.offset}
        about.write_text(json.dumps(settings, indent=2) + "\n")
        return (*files, str(about))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *_: Any, **__: Any) -> Any:
        """Read what `save_pretrained` wrote."""
        folder = Path(pretrained_model_name_or_path)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        first, second = (AutoTokenizer.from_pretrained(folder / name) for name in PARTS)
        return cls(first, second, settings["offset"])
