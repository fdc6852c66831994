"""Films of several events, and texts of single ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2v.evaluation.captioned import SceneRow
from t2v.evaluation.hard_negatives import meaning
from t2v.evaluation.scorer_benchmark import share
from t2v.nets.scorer import Scorer

LEAST = 9  # frames of a scene; a shorter one shows too little of what its caption says


@torch.inference_mode()
def match_events(
    scorer: Scorer, video: Tensor, scenes: Sequence[tuple[SceneRow, ...]]
) -> dict[str, dict[str, float | int | None]]:
    """Return how often texts of single events find their event, and the film that has it.

    `event found`: of the scenes of its film, a scene's caption fits its own best. `film by event`:
    of all films, its own is best, where a film is as good as its best scene; `film as a whole`: the
    same with one vector of the film (Multi-event Video-Text Retrieval, arXiv 2308.11551). Scenes
    that mean the same are no rivals. Films with one scene, or with one under `LEAST` frames, do not
    count; without two films that do, there is nothing to tell.

    Args:
        video: `n t h w c`, uint8.
        scenes: of each clip.
    """
    films = [
        i for i, rows in enumerate(scenes)
        if len(rows) > 1 and min(end - start for start, end, _ in rows) >= LEAST
    ]  # fmt: skip
    if len(films) < 2:
        return {}
    found = matched(scorer, video[films], [scenes[i] for i in films])
    chance = 1 / len(films)
    return {
        "event found": share(found.event) | {"chance": found.chance},
        "film by event": share(found.film) | {"chance": chance},
        "film as a whole": share(found.whole) | {"chance": chance},
    }


@dataclass(frozen=True)
class Matched:
    """The finds of the text of each event, `texts`: see `match_events`.

    `of` is the number of a text's film, `chance` that of an event among those of its film.
    """

    of: Tensor
    event: Tensor
    film: Tensor
    whole: Tensor
    chance: float


@torch.inference_mode()
def matched(scorer: Scorer, video: Tensor, scenes: Sequence[Sequence[SceneRow]]) -> Matched:
    """Return what the text of each scene finds, among the scenes of its film and among all films.

    Args:
        video: `n t h w c`, uint8.
        scenes: of each film.
    """
    rows = [(i, row) for i, each in enumerate(scenes) for row in each]
    of = torch.tensor([i for i, _ in rows])
    events = torch.cat([_vector(scorer, video[i, start:end]) for i, (start, end, _) in rows])
    whole = torch.cat([_vector(scorer, each) for each in video])
    texts = scorer.embed_text([caption for _, (_, _, caption) in rows]).cpu()
    meanings = [meaning(caption) for _, (_, _, caption) in rows]
    same = torch.tensor([[one == other for other in meanings] for one in meanings])
    table = (texts @ events.mT).masked_fill(same & ~torch.eye(len(rows), dtype=torch.bool), -9)
    inside = of[:, None] == of  # texts by events
    own = table.diagonal()
    found = (table.masked_fill(~inside, -9) >= own[:, None]).sum(1) == 1  # ties count against it
    films = range(len(scenes))
    best = torch.stack([table[:, of == film].amax(1) for film in films], 1)
    has = torch.stack([(same & (of == film)).any(1) for film in films], 1)
    return Matched(
        of,
        found,
        _first(best, has, of),
        _first(texts @ whole.mT, has, of),
        (1 / inside.sum(1).float()).mean().item(),
    )


def _vector(scorer: Scorer, frames: Tensor) -> Tensor:
    return scorer.embed_video(frames[None])[:, 0].cpu()


def _first(scores: Tensor, has: Tensor, of: Tensor) -> Tensor:
    """Return whether no film without the event scores as high as the text's own, `texts`."""
    own = scores.gather(1, of[:, None])
    return ((scores >= own) & ~has).sum(1) == 0
