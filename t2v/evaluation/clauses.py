"""The clauses of a caption, and what in each of them a scorer finds true of a clip."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from t2v.evaluation.foils import (
    ARTICLE,
    CLAUSE,
    PREFIX,
    PRONOUN,
    TIME_KINDS,
    VERB,
    disordered,
    timely,
)
from t2v.evaluation.hard_negatives import articles, exchanges, phrases
from t2v.nets.scorer import Scorer

BOUNDARY = re.compile(
    rf",? (?:and )?then (?=\w)|,? (?:before|after|while|as|and) {CLAUSE}|, {CLAUSE}|[.;!?]+ (?=\w)",
    re.IGNORECASE,
)
OPENING = re.compile(rf"^(?:{PREFIX}|(?:after|before|while) {CLAUSE})", re.IGNORECASE)
PLACE = re.compile(
    r"^(?:in|on|at|under|over|across|near|behind|inside|outside|during|from|with)\b", re.IGNORECASE
)
SUBJECT = re.compile(rf"\b({ARTICLE} (?:[\w-]+ ){{1,4}}?)(?:\w+ly )?{VERB}\b", re.IGNORECASE)
NO_SUBJECT = re.compile(rf"^(?:{PRONOUN}\b ?|(?={VERB}\b))", re.IGNORECASE)


class Clause(NamedTuple):
    """A clause of a caption: its place, and its text with a pronoun resolved."""

    start: int
    end: int
    text: str


class Alternative(NamedTuple):
    """A caption with one phrase made another: the kind, the place, and both wordings."""

    kind: str
    start: int
    end: int
    said: str
    other: str

    def made(self, caption: str) -> str:
        """The caption with the other wording."""
        return articles(caption[: self.start] + self.other + caption[self.end :])


@dataclass(frozen=True, kw_only=True)
class Check:
    """A phrase of a caption beside what fits the clip best in its place, and its lead.

    `margin` is the cosine of the caption less that of the best other one; below 0 the check fails
    and `seen` is the other wording.
    """

    kind: str
    said: str
    seen: str
    margin: float


def clauses(caption: str) -> list[Clause]:
    """Return the clauses of a caption, by rules, in the order of the text.

    They are cut at then, before, after, while, as, and or a comma where a subject and a verb
    follow, and between sentences; a place in front belongs to what follows. A pronoun, or a verb
    without a subject, gets the first subject of the caption.
    """
    cuts = [(0, 0), *(match.span() for match in BOUNDARY.finditer(caption))]
    spans = [(end, cuts[i + 1][0] if i + 1 < len(cuts) else len(caption))
             for i, (_, end) in enumerate(cuts)]  # fmt: skip
    if len(spans) > 1 and PLACE.match(caption) and not OPENING.match(caption):
        spans[:2] = [(spans[0][0], spans[1][1])]
    subject = SUBJECT.search(OPENING.sub("", caption))
    found: list[Clause] = []
    for start, end in spans:
        opening = OPENING.match(caption[start:end])
        start += opening.end() if opening else 0
        text = caption[start:end].rstrip(" .;!?,")
        if subject and found:
            text = NO_SUBJECT.sub(subject[1], text, count=1)
        found.append(Clause(start, end, text))
    return found


def alternatives(caption: str) -> list[Alternative]:
    """Return all that one phrase of a caption could say instead, in the order of the text.

    Phrases of the world, each class in one wording; adverbs and numbers of times.
    """
    found = [
        Alternative("motion" if kind == "direction" else kind, *match.span(), match[0], wordings[0])
        for kind, match, others in exchanges(phrases(caption))
        for wordings in others.values()
    ]
    for kind in TIME_KINDS[1:]:
        for match, others in timely(caption, kind):
            found += [Alternative(kind, *match.span(), match[0], other) for other in others]
    return sorted(found, key=lambda each: (each.start, each.kind))


@torch.inference_mode()
def audit(scorer: Scorer, clip: Tensor, caption: str) -> dict[str, Any]:
    """Return what a scorer finds true of a caption, clause by clause, as JSON.

    Sub-sentence scores (arXiv 2311.04335) with a trail of every check behind a verdict, as in
    STAIR (arXiv 2401.03901). `alone` is the cosine of the clause by itself. `checks` exchange one
    phrase of the caption for every other of its kind; a clause `holds` where what it says beats
    them all, and is null where nothing can be exchanged.
    `order` compares the caption with its events in another order.

    Args:
        clip: the unit vector of the clip, `d`.
    """
    parts, others = clauses(caption), alternatives(caption)
    orders = list(dict.fromkeys(disordered(caption)))
    texts = [caption, *(each.text for each in parts)]
    texts += [each.made(caption) for each in others] + orders
    scores = (scorer.embed_text(texts).cpu() @ clip).tolist()
    own, rest = scores[0], iter(scores[1:])
    alone = [next(rest) for _ in parts]
    checks = list(_checks(own, others, [next(rest) for _ in others]))
    rows = []
    for part, score in zip(parts, alone, strict=True):
        of_part = [check for start, check in checks if _of(start, part, parts)]
        holds = all(check.margin > 0 for check in of_part) if of_part else None
        trail = [asdict(check) for check in of_part]
        rows.append({"text": part.text, "alone": score, "holds": holds, "checks": trail})
    order = [{"foil": text, "margin": own - next(rest)} for text in orders]
    return {"caption": caption, "score": own, "clauses": rows, "order": order}


def _checks(
    own: float, others: list[Alternative], scores: list[float]
) -> Iterator[tuple[int, Check]]:
    pairs = zip(others, scores, strict=True)
    for (start, kind), group in groupby(pairs, key=lambda each: (each[0].start, each[0].kind)):
        best, score = max(group, key=lambda each: each[1])
        seen = best.said if own > score else best.other
        yield start, Check(kind=kind, said=best.said, seen=seen, margin=own - score)


def _of(start: int, part: Clause, parts: list[Clause]) -> bool:
    """Return whether a place is in a clause; what stands in front of all is of the first."""
    return part.start <= start < part.end or (part == parts[0] and start < part.start)
