"""`t2v eval votes`: the preferences of people who did not know which video was whose."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t2v.config.evaluation import VotesConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError, shortened
from t2v.evaluation.differences import FIRST, NO_DIFFERENCE
from t2v.evaluation.intervals import wilson
from t2v.io.files import digest
from t2v.io.text_files import read_json

BALLOT = "ballot.json"
PAGE = "vote.html"
PARTS = {"ballot", "runs", "questions", "pairs"}  # of `ballot.json`
MOST_BYTES = 2**24  # of a file of votes: a hundred thousand pairs
MOST_SHOWN = 5  # pairs without a vote that are named
LEFT, RIGHT, SAME = "left", "right", "same"
# Emu Video's two (arXiv 2311.10709, section 4.1): quality, and faithfulness to the text
QUESTIONS = {
    "quality": "Which video looks better?",
    "text": "Which video shows better what the text says?",
}


@dataclass(frozen=True)
class Pair:
    """Two videos of one prompt, and the runs that they are of.

    Args:
        suite, index: the place of the prompt.
        other: the run that is compared with the first one.
        first_is_left: on the page.
    """

    name: str
    suite: str
    index: int
    prompt: str
    other: str
    first_is_left: bool

    def sides(self) -> tuple[str, str]:
        """The runs whose videos are left and right."""
        return (FIRST, self.other) if self.first_is_left else (self.other, FIRST)


def pairs_of(suites: dict[str, list[str]], sides: list[str], seed: int, most: int) -> list[Pair]:
    """Return the pairs of a ballot in a random order; half of each run's have the first one left.

    Args:
        suites: the prompts of each suite.
        sides: the runs' names, the first one among them.
        seed: of the order, the choice and the sides.
        most: prompts of a suite.
    """
    found = []
    for suite, prompts in suites.items():
        for other in sides:
            if other == FIRST:
                continue
            generator = keyed_generator(seed, suite, other, "votes")
            chosen = torch.randperm(len(prompts), generator=generator)[:most].tolist()
            left = torch.randperm(len(chosen), generator=generator) % 2 == 0
            found += [
                Pair(f"{suite} {index} {other}", suite, index, prompts[index], other, bool(first))
                for index, first in zip(chosen, left, strict=True)
            ]
    order = torch.randperm(len(found), generator=keyed_generator(seed, "votes"))
    return [found[index] for index in order.tolist()]


def ballot_of(pairs: list[Pair], keys: list[str], runs: dict[str, str]) -> dict[str, Any]:
    """Return `ballot.json`: which video of the page is of which run; the page itself does not say.

    Args:
        keys: the keys of all videos, so that other videos make another ballot.
        runs: the folder of each run.
    """
    rows = [
        {"pair": pair.name, "suite": pair.suite, "prompt": pair.prompt}
        | dict(zip((LEFT, RIGHT), pair.sides(), strict=True))
        for pair in pairs
    ]
    return {"ballot": digest(rows, keys), "runs": runs, "questions": QUESTIONS, "pairs": rows}


def count_votes(config: VotesConfig) -> str:
    """Return the share of pairs in which each run was preferred to A, with intervals, as a table.

    Where several people voted on a pair, the pair counts once, for what most of them said; no
    difference, or as many for one as for the other, counts as half for each.

    Raises:
        UserError: a file is no file of votes, of another page, or given twice.
    """
    ballot = _read_ballot(Path(config.compared))
    pairs = {row["pair"]: row for row in ballot["pairs"]}
    files = [_read_votes(Path(path), config.compared, ballot, pairs) for path in config.votes]
    _refuse_twice(config.votes, files)
    parts = [f"{side}: {folder}" for side, folder in ballot["runs"].items()]
    lines = [
        "| suite | question | preferred | share [95 %] | verdict | pairs | undecided | missing |",
        "| --- |" + " --- |" * 7,
    ]
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, row in pairs.items():
        groups[row["suite"], _other(row)].append(name)
    for (suite, other), names in groups.items():
        for question in ballot["questions"]:
            scores = [_score(pairs[name], _votes_on(name, question, files)) for name in names]
            lines.append(f"| {suite} | {question} | {other} to {FIRST} | {_cells(scores, other)} |")
    missing = [
        f"- {path}: {_missing(each['votes'], pairs, ballot['questions'])}"
        for path, each in zip(config.votes, files, strict=True)
    ]
    return "\n".join([*parts, "", *lines, "", f"{len(files)} voters", *missing]) + "\n"


def _other(row: dict[str, Any]) -> str:
    return str(row[RIGHT] if row[LEFT] == FIRST else row[LEFT])


def _votes_on(name: str, question: str, files: list[dict[str, Any]]) -> list[str]:
    votes = [each["votes"].get(name, {}).get(question) for each in files]
    return [vote for vote in votes if vote is not None]


def _score(row: dict[str, Any], votes: list[str]) -> float | None:
    """1: most prefer the other run to A, 0: most prefer A, 0.5: neither; None: nobody voted."""
    if not votes:
        return None
    counts = Counter(row[vote] for vote in votes if vote != SAME)
    ahead = counts[_other(row)] - counts[FIRST]
    return 0.5 + 0.5 * ((ahead > 0) - (ahead < 0))


def _cells(scores: list[float | None], other: str) -> str:
    known = [score for score in scores if score is not None]
    missing = len(scores) - len(known)
    if not known:
        return f" | {NO_DIFFERENCE} | 0 | 0 | {missing}"
    low, high = wilson(sum(known), len(known))
    share = f"{sum(known) / len(known):.3f} [{low:.3f}, {high:.3f}]"
    verdict = FIRST if high < 0.5 else other if low > 0.5 else ""
    said = f"{verdict} is better" if verdict else NO_DIFFERENCE
    return f"{share} | {said} | {len(known)} | {known.count(0.5)} | {missing}"


def _missing(
    votes: dict[str, dict[str, str]], pairs: dict[str, Any], questions: dict[str, str]
) -> str:
    """The votes that a voter left out, in words."""
    wanted = {(name, question) for name in pairs for question in questions}
    given = {(name, question) for name, each in votes.items() for question in each}
    left = [pair for pair in pairs if any((pair, question) not in given for question in questions)]
    if not left:
        return f"all {len(wanted)} votes"
    shown = ", ".join(left[:MOST_SHOWN]) + (", ..." if len(left) > MOST_SHOWN else "")
    return f"{len(given)} of {len(wanted)} votes; missing: {shown}"


def _read_ballot(folder: Path) -> dict[str, Any]:
    path = folder / BALLOT
    if not path.is_file():
        raise UserError(
            f"compared={folder}: holds no {BALLOT}. Give the folder of `t2v eval compare` whose "
            f"{PAGE} was voted on."
        )
    ballot = read_json(path)
    if (
        not isinstance(ballot, dict)
        or not {"ballot", "runs", "questions", "pairs"} <= ballot.keys()
    ):
        raise UserError(f"{path}: was not written by `t2v eval compare`. Run it again.")
    return ballot


def _read_votes(
    path: Path, folder: str, ballot: dict[str, Any], pairs: dict[str, Any]
) -> dict[str, Any]:
    """A file that a browser saved, of which nothing is believed before it is looked at."""
    found = read_json(path, "votes", MOST_BYTES)
    votes = found.get("votes") if isinstance(found, dict) else None
    if not isinstance(votes, dict) or not isinstance(found.get("voter"), str):
        raise UserError(f"votes {path}: is no file of votes. Save one with the button of {PAGE}.")
    if found.get("ballot") != ballot["ballot"]:
        raise UserError(
            f"votes {path}: is of another page than compared={folder} holds. Give the folder whose "
            f"{PAGE} was voted on."
        )
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


def _refuse_twice(paths: tuple[str, ...], files: list[dict[str, Any]]) -> None:
    """One person's votes count once, however often the file was saved."""
    seen: dict[str, str] = {}
    for path, each in zip(paths, files, strict=True):
        if each["voter"] in seen:
            raise UserError(
                f"votes {seen[each['voter']]} and {path} are of the same voter. Give the newer one."
            )
        seen[each["voter"]] = path
