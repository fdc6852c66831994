"""The benchmark of a captioner on clips it was not trained on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from t2v.curation.text.details import entities, entity_recall
from t2v.data.rng import keyed_generator
from t2v.evaluation.hard_negatives import KINDS, attributes, meaning
from t2v.evaluation.intervals import Interval, ratio, summary
from t2v.io.words import content_words, overlap
from t2v.nets.sentences import SentenceEncoder

NAMED = tuple(kind for kind in KINDS if kind not in ("direction", "binding"))


def benchmark(
    said: Sequence[str],
    captions: Sequence[tuple[str, ...]],
    seed: int,
    sentences: SentenceEncoder | None = None,
) -> dict[str, dict[str, float]]:
    """Return how well captions of clips say what theirs say, each figure with a 95 % interval.

    `words` is the mean F1 of content words with the clip's first caption, `entities` the share of
    the things and places it names that are named (EntityScore's completeness, see
    `t2v.curation.text.details.entity_recall`; those of all clips counted together). With
    `sentences`, `entity score` is the mean `entity_score`. Where captions
    speak of the synthetic world, `attributes` is the F1 of all attributes named (each clip's
    counted, then added up), `attributes: colour` that of one kind, and `meaning` the share of
    captions that say the same in other words. The chance is the score of another clip's caption,
    and the ceiling that of another caption of the same clip.
    """
    truth = [each[0] for each in captions]
    order = torch.randperm(len(truth), generator=keyed_generator(seed, "benchmark", "others"))
    other = [truth[i] for i in order.tolist()]
    second = [each[min(1, len(each) - 1)] for each in captions]
    found = [_figures(texts, truth, seed, sentences) for texts in (said, other, second)]
    return {
        name: asdict(figure) | {"chance": found[1][name].value, "ceiling": found[2][name].value}
        for name, figure in found[0].items()
        if figure.n
    }


def entity_score(caption: str, reference: str, sentences: SentenceEncoder) -> float:
    """Return the EntityScore of FAVD (arXiv 2303.15616), in [0, 1]; nan without any entity.

    The harmonic mean of the share of the reference's entities that a caption names, here
    `entity_recall`, and of (1 + c) / 2, where c is the cosine of the two by a text encoder, there a
    T5. It is 0 where none is named.
    """
    named = entity_recall(caption, reference)
    if named is None:
        return math.nan
    alike = (1 + sentences.similarity(reference, [caption]).item()) / 2
    return 2 * named * alike / (named + alike) if named else 0.0


def _figures(
    said: Sequence[str], truth: Sequence[str], seed: int, sentences: SentenceEncoder | None
) -> dict[str, Interval]:
    pairs = list(zip(said, truth, strict=True))
    words = torch.tensor([overlap(content_words(a), content_words(b)) for a, b in pairs])
    figures = {"words": summary(words, keyed_generator(seed, "benchmark", "words"), is_part=True)}
    things = [(entities(a), entities(b)) for a, b in pairs]
    counts = torch.tensor([(len(a & b), len(b)) for a, b in things])
    figures["entities"] = _part(counts, keyed_generator(seed, "benchmark", "entities"))
    if sentences is not None:
        scores = torch.tensor([entity_score(a, b, sentences) for a, b in pairs])
        generator = keyed_generator(seed, "benchmark", "entity score")
        figures["entity score"] = summary(scores, generator, is_part=True)
    named = [(attributes(a), attributes(b)) for a, b in pairs]
    for name, kinds in [("attributes", NAMED), *((f"attributes: {k}", (k,)) for k in NAMED)]:
        counts = torch.tensor([_shared(a, b, kinds) for a, b in named])
        figures[name] = _part(counts, keyed_generator(seed, "benchmark", name))
    of_world = [bool(b) for _, b in named]
    same = torch.tensor([float(meaning(a) == meaning(b)) for a, b in pairs])
    same[~torch.tensor(of_world)] = math.nan
    figures["meaning"] = summary(same, torch.Generator(), is_share=True)
    return figures


def _part(counts: Tensor, generator: torch.Generator) -> Interval:
    """The share of the second count that the first is, of clips together, `n 2`."""
    told = counts[counts[:, 1] > 0]
    return ratio(told[:, 0].float(), told[:, 1].float(), generator)


def _shared(
    one: Counter[tuple[str, str]], other: Counter[tuple[str, str]], kinds: Sequence[str]
) -> tuple[int, int]:
    """Twice the attributes of some kinds that both name, and the number that each names, added:
    the first over the second is their F1."""
    a, b = (Counter({k: n for k, n in each.items() if k[0] in kinds}) for each in (one, other))
    return 2 * (a & b).total(), a.total() + b.total()


def benchmark_table(report: dict[str, Any]) -> str:
    """Return the report of `benchmark` as a Markdown table."""
    lines = [
        "| test | F1 or share, % | chance, % | ceiling, % | n |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, each in report.items():
        if isinstance(each, dict):
            value, low, high, chance, ceiling = (
                100 * each[key] for key in ("value", "low", "high", "chance", "ceiling")
            )
            lines.append(
                f"| {name} | {value:.1f} [{low:.1f}, {high:.1f}] | {chance:.1f} | {ceiling:.1f} "
                f"| {each['n']} |"
            )
    return "\n".join(lines) + "\n"
