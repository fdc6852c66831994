"""Blind votes kept on the server: a voter's own order, answers, links that open one vote."""

from __future__ import annotations

import hmac
import json
import random
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2v.errors import UserError
from t2v.evaluation.votes import ANSWERS, BALLOT, read_ballot, read_votes
from t2v.io.files import Lines, sha256, write_text
from t2v.io.text_files import read_json
from t2v.serve.errors import Refused
from t2v.studio.shelf import Run, own_file

FOLDER = "votes"  # in that of the comparison
SHARE = "share.json"  # in that folder: the word of the link that opens the vote
MOST_VOTERS = 1000
MOST_BYTES = 2**20  # of a voter's answers


@dataclass(frozen=True)
class Counted:
    """The votes on a comparison so far.

    Args:
        files: of each voter, as `read_votes` gives them.
        names: of these files.
        refused: why others do not count.
    """

    files: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    refused: Sequence[str]


class Ballots:
    """The blind votes on comparisons, each in the comparison's own folder."""

    def __init__(self) -> None:
        self._turn = threading.Lock()

    def ballot(self, run: Run) -> dict[str, Any]:
        """The ballot of a comparison, its pairs in the order of the page.

        Raises:
            Refused: it cannot be read.
        """
        own_file(run, BALLOT)
        try:
            return read_ballot(run.folder)
        except UserError as error:
            message = str(error).replace(f"{run.folder}/", "")
            raise Refused(409, message, "ballot_unreadable") from error

    def voter_of(self, cookie: str, ballot: Mapping[str, Any]) -> str:
        """The name of a voter in one ballot, which does not tell the cookie."""
        return sha256(f"{cookie} {ballot['ballot']}")[:32]

    def order(self, voter: str, ballot: Mapping[str, Any]) -> list[int]:
        """The pairs in the order of a voter, the same whenever it is asked for."""
        numbers = list(range(len(ballot["pairs"])))
        random.Random(f"{ballot['ballot']} {voter}").shuffle(numbers)
        return numbers

    def given(self, run: Run, voter: str, ballot: Mapping[str, Any]) -> dict[str, Any]:
        """The answers of a voter by pair and question.

        Raises:
            Refused: the file of them was changed by others.
        """
        path = self._file(run, voter)
        if not path.is_file():
            return {}
        try:
            found: dict[str, Any] = read_votes(path, run.name, ballot)["votes"]
        except UserError as error:
            raise Refused(409, "Your votes cannot be read; tell who asked you.", "busy") from error
        return found

    def answer(self, run: Run, voter: str, ballot: Mapping[str, Any], given: Any) -> None:
        """Keep an answer: it is on the disk when this returns.

        Args:
            given: what a browser sent: `ballot`, `pair` (its number), `question`, `answer`.

        Raises:
            Refused: it is no answer to a question of this ballot, or too many were given.
        """
        pair, question, answer = _checked(given, ballot)
        path = self._file(run, voter)
        with self._turn:
            is_new = not path.exists()
            if is_new and len(list(path.parent.glob("*.jsonl"))) >= MOST_VOTERS:
                raise Refused(409, f"{MOST_VOTERS:,} people have voted, as many as may.", "full")
            if not is_new and path.stat().st_size > MOST_BYTES:
                raise Refused(409, "You have changed your mind as often as may be.", "full")
            path.parent.mkdir(exist_ok=True)
            with Lines(path) as lines:
                if is_new:
                    lines.add({"ballot": ballot["ballot"], "voter": voter})
                lines.add(
                    {"pair": pair, "question": question, "answer": answer, "time": time.time()}
                )

    def counted(self, run: Run, ballot: Mapping[str, Any]) -> Counted:
        """All votes that count."""
        files, names, refused = [], [], []
        for path in sorted(self._folder(run).glob("*.jsonl")):
            try:
                files.append(read_votes(path, run.name, ballot))
                names.append(path.name)
            except UserError as error:
                refused.append(str(error).replace(f"{run.folder}/", ""))
        return Counted(files, names, refused)

    def word(self, run: Run) -> str | None:
        """The word that opens a vote to people without the token; None: no word does."""
        try:
            word = read_json(self._folder(run) / SHARE, most=10_000)["word"]
        except (UserError, KeyError, TypeError):
            return None
        return word if isinstance(word, str) and len(word) >= 43 else None

    def share(self, run: Run) -> None:
        """Make a new word; one of before opens nothing any more."""
        self._folder(run).mkdir(exist_ok=True)
        content = {"word": secrets.token_urlsafe(32), "made": time.time()}
        write_text(self._folder(run) / SHARE, json.dumps(content))

    def withdraw(self, run: Run) -> None:
        """Let no word open the vote; what was voted stays."""
        (self._folder(run) / SHARE).unlink(missing_ok=True)

    def opened(self, runs: Sequence[Run], word: str) -> Run:
        """The comparison that a word opens.

        Raises:
            Refused: none.
        """
        for run in runs:
            own = self.word(run) if run.has_ballot else None
            if own is not None and hmac.compare_digest(own.encode(), word.encode()):
                return run
        raise Refused(404, "This vote is closed, or never was.", "vote_not_found")

    def _folder(self, run: Run) -> Path:
        folder = run.folder / FOLDER
        if folder.is_symlink():
            raise Refused(409, f"{FOLDER} is a link, and links are not followed.", "is_link")
        return folder

    def _file(self, run: Run, voter: str) -> Path:
        path = self._folder(run) / f"{voter}.jsonl"
        if path.is_symlink():
            raise Refused(409, "The file of your votes is a link.", "is_link")
        return path


def _checked(given: Any, ballot: Mapping[str, Any]) -> tuple[str, str, str]:
    values = given if isinstance(given, dict) else {}
    if values.get("ballot") != ballot["ballot"]:
        message = "The videos have changed since. Load the page again."
        raise Refused(409, message, "ballot_changed", "ballot")
    number, question, answer = (values.get(name) for name in ("pair", "question", "answer"))
    pairs, questions, answers = ballot["pairs"], ballot["questions"], dict(ANSWERS)
    if not isinstance(number, str) or number not in map(str, range(len(pairs))):
        raise Refused(400, "pair must be the number of a pair.", "invalid_value", "pair")
    if not isinstance(question, str) or question not in questions:
        message = f"question must be one of {', '.join(questions)}."
        raise Refused(400, message, "invalid_value", "question")
    if not isinstance(answer, str) or answer not in answers:
        raise Refused(
            400, f"answer must be one of {', '.join(answers)}.", "invalid_value", "answer"
        )
    return pairs[int(number)]["pair"], question, answer
