"""The events of films: whether each is seen where the story has it, and what of it is seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from t2v.evaluation.captioned import SceneRow
from t2v.evaluation.clauses import audit
from t2v.evaluation.events import matched
from t2v.evaluation.networks import Networks
from t2v.evaluation.types import Measurements, NotRun, PerVideo, Videos
from t2v.nets.scorer import Scorer, load_scorer


def load(networks: Networks) -> Scorer | None:
    """Load the scorer that the settings name; None: none is.

    Raises:
        UserError: it cannot be loaded.
    """
    folder = networks.config.scorer
    return load_scorer(folder).to(networks.device) if folder else None


def measure(videos: Videos, scorer: Scorer | None) -> Measurements:
    """Return how many scenes of each film are found by their prompts, and clauses that hold.

    Multi-event retrieval (arXiv 2308.11551) of what was asked: a prompt finds its scene among those
    of its film, and its film among all by its best scene. Clauses are those of `audit`, which
    exchanges one phrase after the other: the text behind the value tells which fail and what is
    seen instead.
    """
    if scorer is None:
        return {"event": NotRun("no scorer is named: scorer=FOLDER")}
    assert videos.joints is not None
    spans = videos.joints.spans
    scenes = [
        [(*span, prompt) for span, prompt in zip(spans, prompts, strict=True)]
        for prompts in videos.scene_prompts
    ]
    found = matched(scorer, videos.video, scenes)

    def of_films(right: Tensor) -> Tensor:
        return torch.stack([right[found.of == film].float().mean() for film in range(len(videos))])

    by = scorer.name
    values: Measurements = {
        "event": PerVideo(
            of_films(found.event),
            "higher",
            f"share of prompts that fit their own scene of the film best, by {by}",
            is_part=True,
        ),
        "film": NotRun("to tell films apart takes two or more: count=2"),
    }
    if len(videos) > 1:
        values["film"] = PerVideo(
            of_films(found.film),
            "higher",
            f"share of prompts whose film, by its best scene, fits best of {len(videos)}, by {by}",
            is_part=True,
        )
    pairs = zip(videos.video, scenes, strict=True)
    audits = [_clauses(scorer, film, asked) for film, asked in pairs]
    return values | {
        "clauses": PerVideo(
            torch.tensor([share for share, _ in audits]),
            "higher",
            "share of clauses that beat themselves with any one phrase exchanged, by " + by,
            is_part=True,
            texts=tuple(trail for _, trail in audits),
        )
    }


def _clauses(scorer: Scorer, film: Tensor, scenes: list[SceneRow]) -> tuple[float, str]:
    """The share of the clauses of a film's prompts that hold, nan without any that can be checked,
    and what is seen in place of what fails."""
    verdicts, faults = [], []
    for number, (start, end, prompt) in enumerate(scenes, 1):
        clip = scorer.embed_video(film[None, start:end])[0, 0].cpu()
        rows = audit(scorer, clip, prompt)["clauses"]
        verdicts += [row["holds"] for row in rows if row["holds"] is not None]
        faults += [f"scene {number}: {fault}" for row in rows for fault in _faults(row)]
    share = sum(verdicts) / len(verdicts) if verdicts else math.nan
    return share, "; ".join(faults) or "all hold"


def _faults(row: dict[str, Any]) -> Iterator[str]:
    for check in row["checks"]:
        if check["margin"] <= 0:
            yield f"{check['seen']!r} for {check['said']!r} ({check['margin']:.2f})"
