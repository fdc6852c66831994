"""The captions of a dataset as tokens, and the choice of one for a clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2v.errors import UserError
from t2v.io.manifest import REFERRING
from t2v.io.prompt_words import WORD, clean_prompt


def token_counts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> dict[str, int]:
    """Count the tokens of each text, its end mark included."""
    unique = list(dict.fromkeys(texts))
    ids = (
        tokenizer([clean_prompt(text) for text in unique], verbose=False).input_ids
        if unique
        else []
    )
    return {text: len(each) for text, each in zip(unique, ids, strict=True)}


def all_captions(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Every caption of every clip, those of its scenes too."""
    texts = [text for row in rows for text in row.get("captions") or [row["caption"]]]
    texts += [text for row in rows for text in row.get(REFERRING) or ()]
    return texts + [scene["caption"] for row in rows for scene in row.get("scenes") or []]


def add_known_words(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str]) -> None:
    """A tokenizer that lists the words of its training gets those of `captions` too."""
    known = tokenizer.init_kwargs.get("known_words")
    if known is not None:
        found = {word.lower() for text in captions for word in WORD.findall(text)}
        tokenizer.init_kwargs["known_words"] = sorted({*known, *found})


def last_scene(row: dict[str, Any]) -> tuple[int, str] | None:
    """The first frame and the caption of a clip's last scene, where it has several."""
    scenes = row.get("scenes") or []
    return (scenes[-1]["start"], scenes[-1]["caption"]) if len(scenes) > 1 else None


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
        scenes = [last_scene(row) for row in rows]
        count = len(texts)
        texts += [clean_prompt(scene[1]) for scene in scenes if scene]
        referring = [row.get(REFERRING) or () for row in rows]
        of_references = len(texts)
        texts += [clean_prompt(text) for texts in referring for text in texts]
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
        self.scene_starts = torch.tensor([scene[0] if scene else 0 for scene in scenes])
        self.scene_rows = count - 1 + (self.scene_starts > 0).cumsum(0)
        self.referring_counts = torch.tensor([len(texts) for texts in referring])
        self.referring_rows = of_references + self.referring_counts.cumsum(0)
        self.referring_rows -= self.referring_counts

    def pick(
        self,
        clips: Tensor,
        choice: Tensor,
        dropped: Tensor,
        of_last_scene: Tensor | None = None,
        referring: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pick one caption a clip: ids padded to the longest one, `b m`, and lengths, `b`.

        Args:
            clips: indices, `b`.
            choice: the caption of each, as a fraction of their number in [0, 1), `b`.
            dropped: true where the empty caption is taken, `b`.
            of_last_scene: true where the caption of the clip's last scene is taken, `b`.
            referring: true where one is taken that leaves the subjects open, if there is one, `b`.
        """
        row = self.starts[clips] + (choice * self.counts[clips]).long()
        if of_last_scene is not None:
            row = torch.where(of_last_scene, self.scene_rows[clips], row)
        if referring is not None:
            counts = self.referring_counts[clips]
            other = self.referring_rows[clips] + (choice * counts).long()
            row = torch.where(referring & (counts > 0), other, row)
        row = row.masked_fill(dropped, len(self.tokens) - 1)
        lengths = self.lengths[row]
        return self.tokens[row, : int(lengths.max())].long(), lengths

    def first(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Pick the first caption of each clip."""
        return self.pick(clips, torch.zeros(len(clips)), torch.zeros(len(clips), dtype=torch.bool))
