"""The choice between several captions of a clip, and the merging of the others into it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from t2v.curation.text.clean import sentences
from t2v.io.words import content_words, overlap

NAMES = ("filename", "folder")  # the name of a file, not a description of its pictures
MISMATCH = "matches the pictures by"  # the beginning of the verdict of a scorer
NEW = 0.5  # least share of a sentence's words that must be new to the caption for it to be added


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A caption by one author.

    `verdict` is the reason why it cannot be used; empty where it can. `score` is its agreement with
    the others in [0, 1], or the cosine of a scorer. `style` is its distance from users' prompts
    (`Style.distance`). The names of the fields are keys of manifests.
    """

    author: str
    text: str
    verdict: str = ""
    score: float | None = None
    style: float | None = None

    def row(self) -> dict[str, Any]:
        """The fields that are not empty, for the manifest."""
        return {name: value for name, value in asdict(self).items() if value not in ("", None)}


def agreement(candidates: Sequence[Candidate]) -> list[float]:
    """The agreement of each candidate with the other authors, in [0, 1].

    The mean, over the candidates of other authors (or all others where one author wrote them
    all), of the F1 of shared content words: the consensus of minimum Bayes risk (Kumar and Byrne,
    2004). A single candidate has 0.
    """
    contents = [content_words(each.text) for each in candidates]
    authors = [_who(each) for each in candidates]
    scores = []
    for i, own in enumerate(contents):
        other = [j for j, who in enumerate(authors) if who != authors[i]]
        other = other or [j for j in range(len(contents)) if j != i]
        scores.append(sum(overlap(own, contents[j]) for j in other) / max(len(other), 1))
    return scores


def choose(candidates: Sequence[Candidate], within: float | None = None) -> Candidate | None:
    """The usable candidate with the best score; the first of equals.

    Where they have a `style`, the one nearest to it of those whose score is at most `within` below
    the best (None: of all), so that training text reads as users write (In-Style, arXiv 2309.08928,
    which rewrites captions for it).
    """
    usable = [each for each in candidates if not each.verdict]
    best = max(usable, key=lambda each: each.score or 0.0, default=None)
    if best is None or best.style is None:
        return best
    least = -math.inf if within is None else (best.score or 0.0) - within
    near = [each for each in usable if (each.score or 0.0) >= least]
    return min(near, key=lambda each: each.style or 0.0)


def completeness(caption: str, candidates: Sequence[Candidate]) -> float | None:
    """The share of the entities that the usable candidates name which a caption names, in [0, 1].

    None where fewer than two authors wrote, or none named an entity (`details.entity_recall`).
    """
    usable = [each for each in candidates if not each.verdict]
    if len({_who(each) for each in usable}) < 2:
        return None
    from t2v.curation.text.details import entity_recall  # its words of the world load torch

    return entity_recall(caption, ". ".join(each.text for each in usable))


def without_names(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, file names refused where any other author answered or was asked.

    Even a bad caption shows that the clip is not what its name says, or not only.
    """
    if not any(each.text or each.verdict for each in candidates if each.author not in NAMES):
        return list(candidates)
    verdict = "a name counts where nobody else speaks"
    return [
        replace(each, verdict=each.verdict or verdict) if each.author in NAMES else each
        for each in candidates
    ]


def merged(caption: str, others: Sequence[str]) -> str:
    """The caption, then the sentences of others that add to it and are about the same things.

    Coarse and fine captions become one (InternVid, arXiv 2307.06942, section 3.2, without its
    language model): at least half of a sentence's content words are new, at least one is not.
    """
    parts = [caption if caption.endswith((".", "!", "?")) else f"{caption}."]
    known = content_words(caption)
    for sentence in (each for other in others for each in sentences(other)):
        own = content_words(sentence)
        if own & known and len(own - known) >= NEW * len(own):
            parts.append(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}.")
            known |= own
    return " ".join(parts) if len(parts) > 1 else caption


def _who(candidate: Candidate) -> str:
    return candidate.author.partition(" @ ")[0]  # without the time of the frame it describes
