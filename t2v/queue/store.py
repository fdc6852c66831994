"""The files of a queue: names, places, and renames, under a lock that is held for a moment."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from t2v.errors import UserError, shortened
from t2v.io.addresses import local
from t2v.io.files import FOLDER_LOCK, InUse, locked, turn, write_text
from t2v.io.text_files import read_json
from t2v.queue.job import FILE_NAME, LATENTS, MOST_BYTES, STATES, Job, State, file_name, read_values

MARK, FILES, VIDEOS = "queue.json", "files", "videos"
GAP = 2**20  # between the places of two jobs, so that others fit between them
FIRST_PLACE = 10**12  # others fit before it
SHORTEST_ID = 4  # digits that stand for an id, where they are of one job alone
COMMAND = "t2v queue run"


class Store:
    """The folders and files of a queue.

    `STATE/PLACE-ID.json` is a job, `files/ID/` its progress and log, `videos/` are those without
    an output of their own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, folder / FILES
        self._leased: set[str] = set()  # the ids of jobs that this object holds

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the queue alone for a moment.

        Raises:
            UserError: others hold it too long, or it cannot be written.
        """
        try:
            with turn(self.folder / ".lock"):
                yield
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be changed ({error.strerror}).") from error

    def names(self, state: State, part: str = "") -> list[str]:
        """The files of the jobs in a state, in their order; with `part`, those that have it.

        Raises:
            UserError: the queue is there no more.
        """
        try:
            with os.scandir(self.folder / state) as entries:
                found = [each.name for each in entries if part in each.name]
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be read ({error.strerror}).") from error
        return sorted(name for name in found if FILE_NAME.fullmatch(name))

    def has_files(self) -> bool:
        """True where anything lies among the jobs that wait, whatever its name."""
        return any((self.folder / "queued").iterdir())

    def find(self, id: str) -> tuple[State, str]:
        """The state of a job and the name of its file, by its id or the first digits of it.

        Raises:
            UserError: there is none, or several begin so.
        """
        found = [
            (state, name)
            for state in STATES
            for name in self.names(state, id)
            if id_of(name).startswith(id)
        ]
        if len(found) == 1 and len(id) >= SHORTEST_ID:
            return found[0]
        if len(id) < SHORTEST_ID or found:
            raise UserError(f"job {id}: give more digits of its id, {SHORTEST_ID} at least.")
        raise UserError(
            f"job {shortened(id)}: there is none in {self.folder}. `t2v queue list` shows all."
        )

    def path(self, state: State, name: str) -> Path:
        """The file of a job."""
        return self.folder / state / name

    def read(self, state: State, name: str, position: int | None, has_worker: bool) -> Job | None:
        """A job as its files say; None where it is in that state no more."""
        path, id = self.path(state, name), id_of(name)
        values, problem = dict[str, Any](), ""
        try:
            created = path.lstat().st_mtime
            values = read_values(path)
        except FileNotFoundError:
            return None
        except UserError as error:
            if not os.path.lexists(path):
                return None
            problem = str(error)
        return Job(
            id=id,
            state=state,
            place=int(name.partition("-")[0]),
            created=created,
            files=self.files / id,
            output=self.output(id, values),
            values=values,
            problem=problem,
            position=position,
            progress=told(self.files / id / "progress.json") if state == "running" else {},
            result=told(self.files / id / "result.json"),
            has_worker=has_worker,
        )

    def output(self, id: str, values: Mapping[str, Any]) -> Path:
        """The video of a job: where its settings say, or in the queue's own folder."""
        given = values.get("settings", {}).get("output")
        if not isinstance(given, str):
            return self.folder / VIDEOS / f"{id}.mp4"
        with suppress(UserError):  # its worker will say what is wrong with it
            given = local(given)
        return Path(given)

    def write_new(self, values: Mapping[str, Any], place: int) -> str:
        """Write a job that waits, and return its id."""
        id = secrets.token_hex(16)
        self.write("queued", file_name(place, id), values)
        return id

    def write(self, state: State, name: str, values: Mapping[str, Any]) -> None:
        """Write the file of a job, whole.

        Raises:
            UserError: it is too long.
        """
        text = json.dumps(values, indent=1) + "\n"
        if len(text) > MOST_BYTES:
            raise UserError(f"a job of {len(text):,} bytes: at most {MOST_BYTES:,} are taken.")
        write_text(self.path(state, name), text)

    def rename(self, old: tuple[State, str], new: tuple[State, str]) -> None:
        """Bring a job into another state, or to another place."""
        self.path(*old).rename(self.path(*new))

    def last_place(self) -> int:
        """The last place among those that wait."""
        names = self.names("queued")
        return place_of(names[-1]) if names else FIRST_PLACE

    def place_at(self, names: list[str], index: int) -> int:
        """A free place before the job that is `index` in `names`, which wait; others make room."""
        if index >= len(names):
            return (place_of(names[-1]) if names else self.last_place()) + GAP
        after = place_of(names[index])
        before = place_of(names[index - 1]) if index else max(0, after - 2 * GAP)
        if after - before < 2:
            for name in reversed(names[index:]):  # the last first: the order is never another one
                other = file_name(place_of(name) + GAP, id_of(name))
                self.rename(("queued", name), ("queued", other))
            after += GAP
        return (before + after) // 2

    @contextmanager
    def lease(self, name: str) -> Iterator[None]:
        """Hold a job as its worker; the system ends it with the process, however that ends.

        Raises:
            InUse: a worker that is alive holds it.
        """
        folder, id = self.files / id_of(name), id_of(name)
        if id in self._leased:
            raise InUse(f"job {id[:8]}: is being worked on.")
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, command=COMMAND):
            self._leased.add(id)
            try:
                yield
            finally:
                self._leased.discard(id)

    def is_held(self, name: str) -> bool:
        """True where a worker that is alive holds a job. To be asked within `turn`."""
        if id_of(name) in self._leased:
            return True
        lock = self.files / id_of(name) / FOLDER_LOCK
        if not lock.exists():
            return False
        try:
            with turn(lock, seconds=0):
                return False
        except InUse:
            return True

    def drop_work(self, id: str) -> None:
        """Remove what a job that began left of its video that is not finished."""
        began = told(self.files / id / "progress.json").get("output")
        if isinstance(began, str):
            for end in (LATENTS, ".preview.png"):
                Path(began).with_suffix(end).unlink(missing_ok=True)
        for name in ("progress.json", "preview.png"):
            (self.files / id / name).unlink(missing_ok=True)

    def drop_parts(self, id: str) -> None:
        """Remove what a job wrote into the queue's own folder of videos."""
        for path in (self.folder / VIDEOS).glob(f"{id}.*"):
            _remove(path)

    def remove(self, state: State, name: str) -> None:
        """Forget a job and the files of its run; its video stays."""
        for path in (self.files / id_of(name), self.path(state, name)):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def id_of(name: str) -> str:
    """The id of a job, by the name of its file."""
    return name.partition("-")[2].removesuffix(".json")


def place_of(name: str) -> int:
    """The number that the turn of a job goes by, by the name of its file."""
    return int(name.partition("-")[0])


def told(path: Path) -> dict[str, Any]:
    """The content of a file of progress or result; empty where there is none, or it is damaged."""
    try:
        values = read_json(path, most=MOST_BYTES)
    except UserError:
        return {}
    return values if isinstance(values, dict) else {}


def number(values: Mapping[str, Any], name: str) -> float:
    """A number of progress or result; 0 where there is none."""
    value = values.get(name)
    is_sound = isinstance(value, int | float) and abs(value) < 1e15
    return float(cast(float, value)) if is_sound else 0.0


def tell(path: Path, values: Mapping[str, Any]) -> None:
    """Write a small file so that no reader sees half of it; a power cut may lose it."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        partial.write_text(json.dumps(values), encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
