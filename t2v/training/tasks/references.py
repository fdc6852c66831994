"""Pictures of a clip's subjects from other clips, for `tasks.references`.

As subject-driven models are trained (VIMI, arXiv 2407.06304; Phantom, arXiv 2502.11079): a picture
of the same thing at another place, so that what it is carries over and where it stood does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from t2v.config.training import MOST_REFERENCES
from t2v.data.curriculum import BatchItems
from t2v.data.dataset import Dataset
from t2v.errors import UserError
from t2v.io.manifest import SUBJECTS
from t2v.models.latents import normalize_latents
from t2v.training.tasks.known import REFERENCES, Given


class References:
    """The choice of reference pictures: first frames of clips that are trained on.

    Args:
        data: its rows name their `subjects`.
        latents: the config of the VAE, by which latents are normalised.

    Raises:
        UserError: no two clips of a size show the same subject.
    """

    def __init__(self, data: Dataset, latents: Any) -> None:
        self.data, self.latents = data, latents
        self.subjects = [tuple(row.get(SUBJECTS) or ()) for row in data.rows]
        self.showing: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for number, item in enumerate(data.items[: data.count]):
            for subject in dict.fromkeys(self.subjects[item.clip]):
                self.showing.setdefault((subject, tuple(item.bucket[1:])), []).append(number)
        if not any(len({data.items[n].clip for n in each}) > 1 for each in self.showing.values()):
            raise UserError(
                'tasks.references: no two clips show the same subject. Give "subjects" in the rows '
                "of the manifest, in the same words for the same thing; `t2v world "
                "references=true` writes them."
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
            names = self.subjects[self.data.items[item].clip]
            wanted = [names[n % len(names)] for n in range(k)] if names else []
            found = [self._other(item, name, generator) for name in wanted]
            for place, other in enumerate(found):
                if other is not None:
                    frame = self.data.tensors[other][None, :, :1].float()
                    pictures[row, :, place] = normalize_latents(frame, self.latents)[0, :, 0]
            is_whole[row] = bool(found) and None not in found and len(names) <= k
        return given._replace(references=pictures), is_whole

    def _other(self, item: int, subject: str, generator: torch.Generator) -> int | None:
        """An item of another clip that shows a subject in the same size; None: there is none."""
        own = self.data.items[item]
        options = self.showing.get((subject, tuple(own.bucket[1:])), [])
        options = [each for each in options if self.data.items[each].clip != own.clip]
        if not options:
            return None
        return options[int(torch.randint(len(options), (), generator=generator))]
