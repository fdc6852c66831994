"""The folder whose trainings and evaluations a studio shows, and what lies in it."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t2v.evaluation.votes import BALLOT, PAGE
from t2v.io.text_files import is_text
from t2v.serve.errors import Refused

Kind = Literal["training", "evaluation", "comparison"]
FILES: dict[Kind, tuple[str, ...]] = {  # without which a folder is none
    "training": ("config.yaml", "metrics.jsonl"),
    "evaluation": ("eval.json",),
    "comparison": ("compare.json",),
}
VOTED_ON = {BALLOT, PAGE}
DEEPEST = 4  # folders below the shelf
MOST_FOLDERS = 20_000
FRESH, FRESH_FOR_MISSING = 1.0, 0.1  # seconds for which a look counts
# what runs keep below themselves, where no run lies
_INNER = re.compile(
    r"\..*|checkpoint-\d+|sheets|tensorboard|clips|latents|work|thumbs|shards|files|videos|votes"
)


@dataclass(frozen=True)
class Run:
    """A training, an evaluation or a comparison.

    Args:
        name: its path below the shelf, with slashes.
        changed: seconds since 1970, of its last figures.
        has_ballot: people can vote on it.
    """

    name: str
    kind: Kind
    folder: Path
    changed: float
    has_ballot: bool


class Shelf:
    """Runs below a folder, by their names. Links are not followed, so all that is found is in it.

    Args:
        folder: it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._found: dict[tuple[Kind, str], Run] = {}
        self._looked = -FRESH
        self._turn = threading.Lock()

    def runs(self, *kinds: Kind) -> list[Run]:
        """The runs of some kinds, newest first."""
        found = [run for run in self._all().values() if run.kind in kinds]
        return sorted(found, key=lambda run: (-run.changed, run.name))

    def run(self, kind: Kind, name: str) -> Run:
        """The run of a name.

        Raises:
            Refused: there is none; a name is looked up and never read as a path.
        """
        run = self._all().get((kind, name)) or self._all(FRESH_FOR_MISSING).get((kind, name))
        if run is None:
            raise Refused(404, f"There is no {kind} of this name.", "run_not_found")
        return run

    def _all(self, fresh: float = FRESH) -> dict[tuple[Kind, str], Run]:
        with self._turn:
            if time.monotonic() - self._looked >= fresh:
                self._found = {(run.kind, run.name): run for run in self._search()}
                self._looked = time.monotonic()
            return self._found

    def _search(self) -> Iterator[Run]:
        left, folders = MOST_FOLDERS, [(self.folder, "", 0)]
        while folders and left:
            left -= 1
            folder, name, depth = folders.pop()
            files, below = _content(folder)
            for kind, needed in FILES.items():
                if name and all(each in files for each in needed):
                    changed = max(files[each] for each in needed)
                    yield Run(name, kind, folder, changed, files.keys() >= VOTED_ON)
            if depth < DEEPEST and "queue.json" not in files:
                folders += [
                    (folder / each, f"{name}/{each}".removeprefix("/"), depth + 1) for each in below
                ]


def _content(folder: Path) -> tuple[dict[str, float], list[str]]:
    """The files of a folder with their times, and the folders in it that may hold runs."""
    files: dict[str, float] = {}
    below = []
    with suppress(OSError), os.scandir(folder) as entries:
        for each in entries:
            if not is_text(each.name) or each.is_symlink():
                continue
            with suppress(OSError):  # gone since
                if each.is_file():
                    files[each.name] = each.stat().st_mtime
                elif each.is_dir() and not _INNER.fullmatch(each.name):
                    below.append(each.name)
    return files, below


def own_file(run: Run, *names: str) -> Path:
    """A file of a run, by names that are known.

    Raises:
        Refused: it is not there, or is a link.
    """
    path = run.folder.joinpath(*names)
    if path.resolve() != path or not path.is_file():
        raise Refused(404, "There is no such file.", "file_not_found")
    return path
