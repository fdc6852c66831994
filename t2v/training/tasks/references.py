"""Pictures of a clip's subjects from other clips, for `tasks.references`.

As subject-driven models are trained (VIMI, arXiv 2407.06304; Phantom, arXiv 2502.11079): a picture
of the same thing at another place, so that what it is carries over and where it stood does not.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import torch
from torch import Tensor

from t2v.config.training import MOST_REFERENCES
from t2v.data.curriculum import BatchItems
from t2v.data.dataset import Dataset
from t2v.data.retrieval import CaptionIndex
from t2v.errors import UserError
from t2v.io.manifest import SUBJECTS
from t2v.models.latents import normalize_latents
from t2v.training.tasks.known import REFERENCES, Given

NEIGHBOURS = 4  # clips of the nearest captions that one is chosen among


class References:
    """The choice of reference pictures: first frames of other clips that are trained on.

    Clips show the same thing where their rows name the same of `subjects`; where no row names any,
    where their captions are nearest (retrieval of examples, as in VIMI). No clip is shown itself,
    or another part of its own file by its caption.

    Args:
        data: the clips and their rows.
        latents: the config of the VAE, by which latents are normalised.

    Raises:
        UserError: no two clips of a size show the same.
    """

    def __init__(self, data: Dataset, latents: Any) -> None:
        self.data, self.latents = data, latents
        self.subjects = [tuple(row.get(SUBJECTS) or ()) for row in data.rows]
        self.showing: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for number, item in enumerate(data.items[: data.count]):
            for subject in dict.fromkeys(self.subjects[item.clip]):
                self.showing.setdefault((subject, tuple(item.bucket[1:])), []).append(number)
        self.index: CaptionIndex | None = None
        self.of_clip: dict[int, list[int]]
        self.of_file: dict[str | None, list[int]]
        if not self.showing:
            texts = [" ".join(row["captions"]) for row in data.rows[: data.train_count]]
            self.index = CaptionIndex(texts)
            self.of_clip, self.of_file = defaultdict(list), defaultdict(list)
            for number, item in enumerate(data.items[: data.count]):
                self.of_clip[item.clip].append(number)
            for number, row in enumerate(data.rows[: data.train_count]):
                if "path" in row:  # none of `t2v world`: a shard is no film
                    self.of_file[row["path"]].append(number)
            if any(self._nearest(number) for number in range(data.count)):
                return
        elif any(len({data.items[n].clip for n in each}) > 1 for each in self.showing.values()):
            return
        raise UserError(
            'tasks.references: no two clips show the same subject. Give "subjects" in the rows of '
            "the manifest, in the same words for the same thing (`t2v world references=true` "
            "writes them), or none at all, and captions that share words."
        )

    def added(
        self, given: Given, items: BatchItems, generator: torch.Generator
    ) -> tuple[Given, Tensor]:
        """Add reference pictures to what a batch is given, where its task asks for them.

        One or two pictures for the whole batch; where a clip has fewer subjects, several of one.
        Zeros stand for a subject that no other clip shows.

        Returns:
            It, and true for clips all of whose subjects are shown, `b`.
        """
        count = len(items.indices)
        if given.tasks[0] != REFERENCES:
            return given, torch.zeros(count, dtype=torch.bool)
        k = 1 + int(torch.randint(MOST_REFERENCES, (), generator=generator))
        first = self.data.tensors[int(items.indices[0])][:, :1]  # c 1 h w
        pictures = torch.zeros(count, first.shape[0], k, *first.shape[2:])
        is_whole = torch.zeros(count, dtype=torch.bool)
        for row, item in enumerate(items.indices.tolist()):
            found = [self._chosen(each, generator) for each in self._options(item, k)]
            for place, other in enumerate(found):
                if other is not None:
                    frame = self.data.tensors[other][None, :, :1].float()
                    pictures[row, :, place] = normalize_latents(frame, self.latents)[0, :, 0]
            subjects = len(self.subjects[self.data.items[item].clip])
            is_whole[row] = None not in found and 0 < subjects <= k
        return given._replace(references=pictures), is_whole

    def _options(self, item: int, k: int) -> list[list[int]]:
        """The items that each of `k` pictures of an item may show."""
        if self.index is not None:
            return [self._nearest(item)] * k
        own = self.data.items[item]
        names, size = self.subjects[own.clip], tuple(own.bucket[1:])
        shown = [names[n % len(names)] for n in range(k)] if names else []
        others = [self.showing.get((name, size), []) for name in shown]
        return [[n for n in each if self.data.items[n].clip != own.clip] for each in others]

    @cache  # noqa: B019  it lives as long as the training
    def _nearest(self, item: int) -> list[int]:
        """The items of the same size whose captions are nearest, of other files."""
        assert self.index is not None
        own = self.data.items[item]
        row = self.data.rows[own.clip]
        same = {own.clip, *self.of_file.get(row.get("path"), ())}
        clips = self.index.nearest(" ".join(row["captions"]), NEIGHBOURS, same)
        others = [n for clip in clips for n in self.of_clip[clip]]
        return [n for n in others if self.data.items[n].bucket[1:] == own.bucket[1:]]

    @staticmethod
    def _chosen(options: list[int], generator: torch.Generator) -> int | None:
        if not options:
            return None
        return options[int(torch.randint(len(options), (), generator=generator))]
