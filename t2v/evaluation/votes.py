"""`t2v eval votes`: the preferences of people who did not know which video was whose."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from t2v.config.evaluation import VotesConfig
from t2v.curation.shares import wilson
from t2v.errors import UserError, shortened
from t2v.evaluation.verdicts import FIRST, NO_DIFFERENCE
from t2v.io.files import read_lines
from t2v.io.text_files import check_file, read_json

BALLOT = "ballot.json"
PAGE = "vote.html"
PARTS = {"ballot", "runs", "questions", "pairs"}  # of `ballot.json`
MOST_BYTES = 2**24  # of a file of votes: a hundred thousand pairs
MOST_SHOWN = 5  # pairs without a vote that are named
LEFT, RIGHT, SAME = "left", "right", "same"
ANSWERS = ((LEFT, "left"), (RIGHT, "right"), (SAME, "no difference"))  # and as people read them
# Emu Video's two (arXiv 2311.10709, section 4.1): quality, and faithfulness to the text
QUESTIONS = {
    "quality": "Which video looks better?",
    "text": "Which video shows better what the text says?",
}


@dataclass(frozen=True)
class Count:
    """The votes on the pairs of one run and A, as answers to one question.

    Args:
        preferred: which run to which.
        share: of the pairs in which that run was preferred, with its interval; empty: no votes.
        pairs, undecided, missing: pairs with votes, those of them without a winner, those without.
    """

    suite: str
    question: str
    preferred: str
    share: str
    verdict: str
    pairs: int
    undecided: int
    missing: int


def count_votes(config: VotesConfig) -> str:
    """Return the share of pairs in which each run was preferred to A, with intervals, as a table.

    Where several people voted on a pair, the pair counts once, for what most of them said; no
    difference, or as many for one as for the other, counts as half for each.

    Raises:
        UserError: a file is no file of votes, of another page, or given twice.
    """
    ballot = read_ballot(Path(config.compared))
    files = [read_votes(Path(path), config.compared, ballot) for path in config.votes]
    _refuse_twice(config.votes, files)
    parts = [f"{side}: {folder}" for side, folder in ballot["runs"].items()]
    lines = [
        "| suite | question | preferred | share [95 %] | verdict | pairs | undecided | missing |",
        "| --- |" + " --- |" * 7,
    ]
    for row in counted(ballot, files):
        lines.append("| " + " | ".join(str(each) for each in astuple(row)) + " |")
    missing = [
        f"- {path}: {missing_words(each['votes'], ballot)}"
        for path, each in zip(config.votes, files, strict=True)
    ]
    return "\n".join([*parts, "", *lines, "", f"{len(files)} voters", *missing]) + "\n"


def counted(ballot: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> list[Count]:
    """Return the count of each suite, run and question.

    Args:
        ballot: as `read_ballot` gives it.
        files: as `read_votes` gives them, one a voter.
    """
    pairs = {row["pair"]: row for row in ballot["pairs"]}
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, row in pairs.items():
        groups[row["suite"], _other(row)].append(name)
    found = []
    for (suite, other), names in groups.items():
        for question in ballot["questions"]:
            scores = [_score(pairs[name], _votes_on(name, question, files)) for name in names]
            found.append(_count(suite, question, other, scores))
    return found


def _other(row: Mapping[str, Any]) -> str:
    return str(row[RIGHT] if row[LEFT] == FIRST else row[LEFT])


def _votes_on(name: str, question: str, files: Sequence[Mapping[str, Any]]) -> list[str]:
    votes = [each["votes"].get(name, {}).get(question) for each in files]
    return [vote for vote in votes if vote is not None]


def _score(row: Mapping[str, Any], votes: list[str]) -> float | None:
    """1: most prefer the other run to A, 0: most prefer A, 0.5: neither; None: nobody voted."""
    if not votes:
        return None
    counts = Counter(row[vote] for vote in votes if vote != SAME)
    ahead = counts[_other(row)] - counts[FIRST]
    return 0.5 + 0.5 * ((ahead > 0) - (ahead < 0))


def _count(suite: str, question: str, other: str, scores: list[float | None]) -> Count:
    known = [score for score in scores if score is not None]
    share, said = "", NO_DIFFERENCE
    if known:
        low, high = wilson(sum(known), len(known))
        share = f"{sum(known) / len(known):.3f} [{low:.3f}, {high:.3f}]"
        verdict = FIRST if high < 0.5 else other if low > 0.5 else ""
        said = f"{verdict} is better" if verdict else NO_DIFFERENCE
    return Count(
        suite=suite,
        question=question,
        preferred=f"{other} to {FIRST}",
        share=share,
        verdict=said,
        pairs=len(known),
        undecided=known.count(0.5),
        missing=len(scores) - len(known),
    )


def missing_words(votes: Mapping[str, Mapping[str, str]], ballot: Mapping[str, Any]) -> str:
    """Return the number of votes that a voter gave, and the pairs left out, in words."""
    pairs, questions = [row["pair"] for row in ballot["pairs"]], ballot["questions"]
    wanted = {(name, question) for name in pairs for question in questions}
    given = {(name, question) for name, each in votes.items() for question in each}
    left = [pair for pair in pairs if any((pair, question) not in given for question in questions)]
    if not left:
        return f"all {len(wanted)} votes"
    shown = ", ".join(left[:MOST_SHOWN]) + (", ..." if len(left) > MOST_SHOWN else "")
    return f"{len(given)} of {len(wanted)} votes; missing: {shown}"


def read_ballot(folder: Path) -> dict[str, Any]:
    """Return the ballot of a comparison.

    Raises:
        UserError: there is none, or another program wrote it.
    """
    path = folder / BALLOT
    if not path.is_file():
        raise UserError(
            f"compared={folder}: holds no {BALLOT}. Give the folder of `t2v eval compare` whose "
            f"{PAGE} was voted on."
        )
    ballot = read_json(path)
    if not isinstance(ballot, dict) or not (ballot.keys() >= PARTS and _is_ballot(ballot)):
        raise UserError(f"{path}: was not written by `t2v eval compare`. Run it again.")
    return ballot


def _is_ballot(ballot: dict[str, Any]) -> bool:
    pairs, runs, questions = ballot["pairs"], ballot["runs"], ballot["questions"]
    texts = ("pair", "suite", "prompt", LEFT, RIGHT)
    return (
        isinstance(ballot["ballot"], str)
        and isinstance(pairs, list)
        and all(isinstance(row, dict) for row in pairs)
        and all(isinstance(row.get(name), str) for row in pairs for name in texts)
        and all(FIRST in (row[LEFT], row[RIGHT]) for row in pairs)
        and isinstance(runs, dict)
        and isinstance(questions, dict)
        and all(isinstance(each, str) for each in (*runs.values(), *questions.values()))
    )


def read_votes(path: Path, folder: str, ballot: Mapping[str, Any]) -> dict[str, Any]:
    """Return the voter and the votes of a file that a browser or `t2v studio` wrote.

    Nothing in it is believed before it is looked at. A studio adds a line (`.jsonl`) with every
    answer; the last one to a question counts.

    Args:
        folder: of the comparison, for messages.

    Raises:
        UserError: it is no such file, or of another page.
    """
    found = _lines(path) if path.suffix == ".jsonl" else read_json(path, "votes", MOST_BYTES)
    votes = found.get("votes") if isinstance(found, dict) else None
    if not isinstance(votes, dict) or not isinstance(found.get("voter"), str):
        raise UserError(f"votes {path}: is no file of votes. Save one with the button of {PAGE}.")
    if found.get("ballot") != ballot["ballot"]:
        raise UserError(
            f"votes {path}: is of another page than compared={folder} holds. Give the folder whose "
            f"{PAGE} was voted on."
        )
    pairs = {row["pair"] for row in ballot["pairs"]}
    for name, each in votes.items():
        if name not in pairs:
            raise UserError(
                f"votes {path}: {shortened(repr(name))} is no pair of the page. Save them again."
            )
        if not isinstance(each, dict):
            raise UserError(
                f"votes {path}, {name}: needs an answer by question. Save the votes again."
            )
        for question, vote in each.items():
            if question not in ballot["questions"] or vote not in (LEFT, RIGHT, SAME):
                raise UserError(
                    f"votes {path}, {name}: {shortened(repr((question, vote)))}. Questions are "
                    f"{', '.join(ballot['questions'])}, answers {LEFT}, {RIGHT}, {SAME}."
                )
    return {"voter": found["voter"], "votes": votes}


def _lines(path: Path) -> dict[str, Any]:
    """The content of a file that a studio wrote, in the form of those that browsers save."""
    check_file(path, f"votes {path}")
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"votes {path}: is longer than the {MOST_BYTES:,} bytes that are read.")
    first, *rows = read_lines(path) or [{}]
    votes: dict[str, dict[str, Any]] = {}
    for row in rows:
        votes.setdefault(str(row.get("pair")), {})[str(row.get("question"))] = row.get("answer")
    return {"ballot": first.get("ballot"), "voter": first.get("voter"), "votes": votes}


def _refuse_twice(paths: tuple[str, ...], files: list[dict[str, Any]]) -> None:
    """One person's votes count once, however often the file was saved."""
    seen: dict[str, str] = {}
    for path, each in zip(paths, files, strict=True):
        if each["voter"] in seen:
            raise UserError(
                f"votes {seen[each['voter']]} and {path} are of the same voter. Give the newer one."
            )
        seen[each["voter"]] = path
