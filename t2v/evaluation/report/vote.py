"""The page for a blind vote: pairs of videos, left and right by chance, and questions on each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from t2v.evaluation.ballots import Pair
from t2v.evaluation.report.html import rendered
from t2v.evaluation.report.page import film
from t2v.evaluation.votes import ANSWERS
from t2v.io.files import write_text


def write_vote_page(
    path: Path,
    ballot: dict[str, Any],
    pairs: list[Pair],
    videos: dict[str, dict[str, Tensor]],
    fps: float,
) -> None:
    """Write the page, which does not say which video is of which run.

    Args:
        ballot: as `ballot_of` gives it.
        pairs: those of the ballot, in its order.
        videos: of each suite, those of each run, `n t h w c` uint8.
    """
    shown = [
        {"pair": pair.name, "prompt": pair.prompt, "given": {}}
        | {"films": [film(videos[pair.suite][side][pair.index], fps) for side in pair.sides()]}
        for pair in pairs
    ]
    text = rendered(
        "vote.html.j2",
        ["report.js", "vote.js"],
        ["frame.css", "vote.css"],
        ballot=ballot,
        pairs=shown,
        answers=ANSWERS,
        answers_to="",
    )
    write_text(path, text)
