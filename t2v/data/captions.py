"""The captions of a dataset as tokens, and the choice of one for a clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2v.errors import UserError
from t2v.models.text import clean_prompt


def token_counts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> dict[str, int]:
    """Count the tokens of each text, its end mark included."""
    unique = list(dict.fromkeys(texts))
    ids = (
        tokenizer([clean_prompt(text) for text in unique], verbose=False).input_ids
        if unique
        else []
    )
    return {text: len(each) for text, each in zip(unique, ids, strict=True)}


class Captions:
    """All captions of all clips, tokenised once.

    Raises:
        UserError: a caption is longer than `max_length` tokens; it is shown.
    """

    def __init__(
        self, rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> None:
        paraphrases = [row.get("captions") or [row["caption"]] for row in rows]
        texts = [clean_prompt(text) for texts in paraphrases for text in texts]
        ids = tokenizer([*texts, ""])["input_ids"]
        lengths = [len(each) for each in ids]
        longest = max(lengths)
        if longest > max_length:
            raise UserError(
                f"A caption has {longest} tokens, max_sequence_length is {max_length}: "
                f"{texts[lengths.index(longest)]!r}. Raise max_sequence_length or shorten it."
            )
        self.tokens = torch.full((len(ids), longest), tokenizer.pad_token_id, dtype=torch.int32)
        for row, each in zip(self.tokens, ids, strict=True):
            row[: len(each)] = torch.tensor(each, dtype=torch.int32)
        self.lengths = torch.tensor(lengths)
        self.counts = torch.tensor([len(texts) for texts in paraphrases])
        self.starts = self.counts.cumsum(0) - self.counts

    def pick(self, clips: Tensor, choice: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Pick one caption a clip: ids padded to the longest one, `b m`, and lengths, `b`.

        Args:
            clips: indices, `b`.
            choice: the caption of each, as a fraction of their number in [0, 1), `b`.
            dropped: true where the empty caption is taken, `b`.
        """
        row = self.starts[clips] + (choice * self.counts[clips]).long()
        row = row.masked_fill(dropped, len(self.tokens) - 1)
        lengths = self.lengths[row]
        return self.tokens[row, : int(lengths.max())].long(), lengths

    def first(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Pick the first caption of each clip."""
        return self.pick(clips, torch.zeros(len(clips)), torch.zeros(len(clips), dtype=torch.bool))
