"""Which of several captions of a clip is taken, and what the others add to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from t2v.curation.text.clean import sentences
from t2v.data.words import content_words, overlap

NAMES = ("filename", "folder")  # they say what a file is called, not what is seen in it
NEW = 0.5  # share of a sentence's words that the caption lacks, from which it adds something


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What one author says of a clip.

    `verdict` is why the text is not taken as a caption; empty where it may be. `score` is its
    agreement with the others in [0, 1], or the cosine of a scorer.
    """

    author: str
    text: str
    verdict: str = ""
    score: float | None = None

    def row(self) -> dict[str, Any]:
        """For the manifest: what is known, without empty fields."""
        return {name: value for name, value in asdict(self).items() if value not in ("", None)}


def agreement(candidates: Sequence[Candidate]) -> list[float]:
    """How far each candidate says what the other authors say, in [0, 1].

    The mean, over the candidates of other authors (or all others where one author wrote them
    all), of the F1 of shared content words: the consensus of minimum Bayes risk (Kumar and Byrne,
    2004). A single candidate has 0.
    """
    said = [content_words(each.text) for each in candidates]
    authors = [_who(each) for each in candidates]
    scores = []
    for i, own in enumerate(said):
        other = [j for j, who in enumerate(authors) if who != authors[i]]
        other = other or [j for j in range(len(said)) if j != i]
        scores.append(sum(overlap(own, said[j]) for j in other) / max(len(other), 1))
    return scores


def choose(candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate of the best score that has no verdict; the first of equals."""
    fit = [each for each in candidates if not each.verdict]
    return max(fit, key=lambda each: each.score or 0.0, default=None)


def without_names(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, names refused where anybody else spoke or was asked, however badly.

    A bad caption shows that the clip is not what its name says, or not only.
    """
    if not any(each.text or each.verdict for each in candidates if each.author not in NAMES):
        return list(candidates)
    verdict = "a name counts where nobody else speaks"
    return [
        replace(each, verdict=each.verdict or verdict) if each.author in NAMES else each
        for each in candidates
    ]


def merged(caption: str, others: Sequence[str]) -> str:
    """The caption, then the sentences of others that add to it and speak of the same things.

    Coarse and fine captions become one (InternVid, arXiv 2307.06942, section 3.2, without its
    language model): at least half of a sentence's content words are new, at least one is not.
    """
    told = [caption if caption.endswith((".", "!", "?")) else f"{caption}."]
    known = content_words(caption)
    for sentence in (each for other in others for each in sentences(other)):
        own = content_words(sentence)
        if own & known and len(own - known) >= NEW * len(own):
            told.append(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}.")
            known |= own
    return " ".join(told) if len(told) > 1 else caption


def _who(candidate: Candidate) -> str:
    return candidate.author.partition(" @ ")[0]  # without the frame it looked at
