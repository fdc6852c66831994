"""Captions of rising detail and of rising falsehood, for rankings by a scorer."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from t2v.evaluation.clauses import alternatives, clauses
from t2v.evaluation.foils import links
from t2v.evaluation.hard_negatives import articles, phrases
from t2v.world.grammar import pick

Span = tuple[int, int]
DETAILS = ("colour", "size", "background", "camera")  # phrases that a sentence is whole without
NEEDED = re.compile(r"\b(?:turns|becomes|is) $")  # before a phrase that a verb needs
FALSE = 3  # details made false, at most
LEAST_RUNGS = 3  # captions that a ranking needs


def detailed(caption: str, generator: torch.Generator) -> list[str]:
    """Return captions of rising detail, all true: the barest first, the caption last.

    What can be left out is left out one by one in a random order: colours, sizes, places and the
    camera of the world, adverbs and numbers of times, and what comes after the last "then".
    (Detail Description Ranking of VideoCLIP-XL, arXiv 2410.00741.)
    """
    spans = _spare(caption)
    order = torch.randperm(len(spans), generator=generator).tolist()
    ladder = [caption]
    for count in range(1, len(spans) + 1):
        ladder.append(_less(caption, [spans[i] for i in order[:count]]))
    return list(dict.fromkeys(reversed(ladder)))


def hallucinated(caption: str, generator: torch.Generator) -> list[str]:
    """Return the caption, then with one false detail, with two, ..., at most `FALSE`.

    (Hallucination Description Ranking of VideoCLIP-XL.) What a detail is and what can stand in its
    place is as in `alternatives`.
    """
    places = list({each.start: each for each in alternatives(caption)})
    order = torch.randperm(len(places), generator=generator).tolist()[:FALSE]
    false = [
        pick([each for each in alternatives(caption) if each.start == places[i]], generator)
        for i in order
    ]
    ladder = [caption]
    for count in range(1, len(false) + 1):
        text = caption
        for each in sorted(false[:count], reverse=True, key=lambda each: each.start):
            text = text[: each.start] + each.other + text[each.end :]
        ladder.append(articles(text))
    return ladder


def rank_correlation(scores: Tensor) -> float:
    """Return Spearman's rank correlation of scores `n` with their places: 1 where all rise.

    nan where there are fewer than three.
    """
    if len(scores) < LEAST_RUNGS:
        return float("nan")
    ranks = torch.stack((scores.argsort().argsort(), torch.arange(len(scores)))).double()
    return torch.corrcoef(ranks)[0, 1].item()


def _spare(caption: str) -> list[Span]:
    """The places of what a caption can be without."""
    found = [
        match.span()
        for match, phrase in phrases(caption)
        if phrase.kind in DETAILS and not NEEDED.search(caption[: match.start()])
    ]
    found += [
        (each.start, each.end)
        for each in alternatives(caption)
        if each.kind in ("adverb", "repetition")
    ]
    last = links(caption)[-1:]
    if last and last[0].word == "then" and clauses(caption)[-1].start <= last[0].end:
        found = [each for each in found if each[0] < last[0].start]
        found.append((last[0].start, len(caption)))
    return list(dict.fromkeys(found))


def _less(caption: str, spans: Sequence[Span]) -> str:
    text = caption
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
    text = re.sub(r"\s+", " ", text)
    return articles(re.sub(r" (?=[,.])|,(?=\s*(?:,|$))", "", text).strip(" ,"))
