"""The `t2v eval language` command: which captions of clips a scorer tells from wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2v.config.language import LanguageConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.evaluation.captioned import read_captioned
from t2v.evaluation.clauses import Clause, alternatives, audit, clauses
from t2v.evaluation.details import detailed, hallucinated, rank_correlation
from t2v.evaluation.events import match_events
from t2v.evaluation.intervals import summary
from t2v.evaluation.scorer_benchmark import share, time_tests
from t2v.io.files import write_text
from t2v.models.device import pick_device
from t2v.nets.scorer import Scorer, load_scorer
from t2v.world.grammar import pick

Figure = dict[str, float | int | None]


def examine(config: LanguageConfig) -> str:
    """Test a scorer on captioned clips by `language` and `match_events`.

    Returns:
        A table; all figures and trails are in the file `json=`.

    Raises:
        UserError: there is no scorer, the clips cannot be read, or the file is another's.
    """
    if config.json:
        _refuse_to_replace(Path(config.json))
    scorer = load_scorer(config.scorer).to(pick_device(config.device))
    data = read_captioned(config.data, config.count)
    captions = [each[0] for each in data.captions]
    videos = scorer.embed_video(data.video).squeeze(1).cpu()
    figures, trail = language(scorer, videos, captions, config.seed)
    figures |= match_events(scorer, data.video, data.scenes)
    if config.json:
        asked = {"data": config.data, "scorer": scorer.name, "n": len(captions)}
        told = asked | {"figures": figures, "clips": trail}
        write_text(Path(config.json), json.dumps(told, indent=1) + "\n")
    return language_table(figures)


@torch.inference_mode()
def language(
    scorer: Scorer, videos: Tensor, captions: Sequence[str], seed: int
) -> tuple[dict[str, Figure], list[dict[str, Any]]]:
    """Return figures with 95 % intervals, n and chance, and the `audit` of each caption.

    `foil: KIND` and `blind: KIND` are `time_tests`. `clauses hold`: clauses of true captions of
    which every check passes; `false clause fails`: clauses with one phrase made false of which one
    does not, `false clause found`: its check of the lowest margin is of the clause made false, of
    captions of several. `detail`, `hallucination`: Spearman's correlation of cosines with detail
    and with freedom from falsehood, a mean over captions.

    Args:
        videos: `n d`, unit vectors of the clips.
    """
    trail = [audit(scorer, *each) for each in zip(videos, captions, strict=True)]
    figures: dict[str, Figure] = dict(time_tests(scorer, videos, captions, seed))
    holds = [row["holds"] for each in trail for row in each["clauses"] if row["holds"] is not None]
    figures["clauses hold"] = share(torch.tensor(holds, dtype=torch.bool))
    figures |= _false_clauses(scorer, videos, captions, seed)
    for name, ladder, sign in (("detail", detailed, 1), ("hallucination", hallucinated, -1)):
        figures |= _ranking(scorer, videos, captions, name, ladder, sign, seed)
    return {name: each for name, each in figures.items() if each["n"]}, trail


def _false_clauses(
    scorer: Scorer, videos: Tensor, captions: Sequence[str], seed: int
) -> dict[str, Figure]:
    generator = keyed_generator(seed, "language", "clauses")
    fails, found, chances = list[bool](), list[bool](), list[float]()
    for clip, caption in zip(videos, captions, strict=True):
        if not (others := alternatives(caption)):
            continue
        parts = clauses(caption)
        wrong = pick(sorted({_part(each.start, parts) for each in others}), generator)
        false = pick([each for each in others if _part(each.start, parts) == wrong], generator)
        rows = audit(scorer, clip, false.made(caption))["clauses"]
        margins = [min((c["margin"] for c in row["checks"]), default=1.0) for row in rows]
        fails.append(margins[wrong] < 0)
        if len(parts) > 1:
            found.append(margins.index(min(margins)) == wrong)
            chances.append(1 / len(parts))
    chance = sum(chances) / max(len(chances), 1)
    return {
        "false clause fails": share(torch.tensor(fails, dtype=torch.bool)),
        "false clause found": share(torch.tensor(found, dtype=torch.bool)) | {"chance": chance},
    }


def _part(place: int, parts: Sequence[Clause]) -> int:
    """The number of the clause that holds a place."""
    return max((i for i, part in enumerate(parts) if part.start <= place), default=0)


def _ranking(
    scorer: Scorer,
    videos: Tensor,
    captions: Sequence[str],
    name: str,
    ladder: Callable[[str, torch.Generator], list[str]],
    sign: int,
    seed: int,
) -> dict[str, Figure]:
    """The rank correlation, and the same with the next clip (`blind`)."""
    generator = keyed_generator(seed, "language", name)
    own, other = list[float](), list[float]()
    for i, caption in enumerate(captions):
        texts = scorer.embed_text(ladder(caption, generator)).cpu()
        own.append(rank_correlation(sign * (texts @ videos[i])))
        other.append(rank_correlation(sign * (texts @ videos[(i + 1) % len(videos)])))
    found = {name: own, f"blind: {name}": other}
    return {
        each: _figure(torch.tensor(values), generator) | {"chance": 0.0}
        for each, values in found.items()
    }


def _figure(values: Tensor, generator: torch.Generator) -> Figure:
    mean = asdict(summary(values, generator))
    return {"mean": mean.pop("value"), **mean}


def language_table(figures: dict[str, Figure]) -> str:
    """Return the figures of `language` as a Markdown table."""
    lines = ["| test | figure | chance | n |", "| --- | --- | --- | --- |"]
    for name, each in figures.items():
        value = each["share"] if "share" in each else each["mean"]
        chance = f"{each['chance']:.2f}" if "chance" in each else ""
        interval = f"{value:.3f} [{each['low']:.3f}, {each['high']:.3f}]"
        lines.append(f"| {name} | {interval} | {chance} | {each['n']} |")
    return "\n".join(lines) + "\n"


def _refuse_to_replace(file: Path) -> None:
    """Raise `UserError` where a file lies that `t2v eval language` did not write."""
    if file.exists() and '"clips"' not in file.read_text(encoding="utf-8", errors="replace"):
        raise UserError(
            f"json={file} holds no figures of `t2v eval language` and would be replaced. Name "
            "another file."
        )
