"""The queue: what may be done with its jobs, by any number of processes at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from t2v.config.load import load_config
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.files import InUse, write_text
from t2v.queue.job import (
    STATES,
    Job,
    State,
    check_settings,
    check_values,
    differences,
    file_name,
    whole_paths,
)
from t2v.queue.store import FILES, GAP, MARK, VIDEOS, Store, id_of

MOST_JOBS = 10_000  # that wait
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")


class QueueFull(UserError):
    """No more jobs may wait."""


class WrongState(UserError):
    """A refusal of what jobs in the `state` that one is in do not allow."""

    def __init__(self, message: str, state: State) -> None:
        super().__init__(message)
        self.state = state


class Queue:
    """Jobs in a folder, which any number of processes may change and work on.

    A job is in one state, by the folder its file is in, and goes to another by a rename; every
    change is made under a lock that is held for a moment.

    Args:
        folder: of the queue; `make` makes one.
        most: jobs that may wait.

    Raises:
        UserError: there is no queue.
    """

    def __init__(self, folder: str | Path, most: int = MOST_JOBS) -> None:
        self.folder, self.most = _here(folder), most
        self.store = Store(self.folder)
        if not (self.folder / MARK).is_file():
            raise UserError(
                f"{self.folder}: is no queue. Make one by its first job: "
                '`t2v queue add FOLDER "a red ball bounces on grass"`.'
            )

    @classmethod
    def make(cls, folder: str | Path, most: int = MOST_JOBS) -> Queue:
        """The queue of a folder, which is made if it is not there.

        Raises:
            UserError: the folder cannot be written, or holds something else.
        """
        place = _here(folder)
        try:
            place.mkdir(parents=True, exist_ok=True)
            is_new = not (place / MARK).is_file()
            if is_new and any(not each.name.startswith(".") for each in place.iterdir()):
                raise UserError(f"{place}: holds other files and is no queue. Give a new folder.")
            for name in (*STATES, FILES, VIDEOS):
                (place / name).mkdir(exist_ok=True)
            if is_new:
                write_text(place / MARK, json.dumps({"version": 1}) + "\n")
        except OSError as error:
            raise UserError(f"{place}: cannot be made ({error.strerror}).") from error
        return cls(place, most)

    def jobs(self, states: Collection[State] = STATES) -> list[Job]:
        """The jobs in those states: the running first, then the others, each in their order."""
        with self.store.turn():
            names = {state: self.store.names(state) for state in STATES if state in states}
            dead = {name for name in names.get("running", []) if not self.store.is_held(name)}
        order = sorted(names, key=("running", *STATES).index)
        found = []
        for state in order:
            for number, name in enumerate(names[state], 1):
                position = number if state == "queued" else None
                job = self.store.read(state, name, position, name not in dead)
                if job is None:  # it has gone on since
                    with suppress(UserError):
                        job = self.job(id_of(name))
                found += [] if job is None else [job]
        return found

    def job(self, id: str) -> Job:
        """The job of an id, or of its first digits.

        Raises:
            UserError: there is none, or several begin so.
        """
        for _ in range(10):  # it may change its state in between
            with self.store.turn():
                state, name = self.store.find(id)
                is_alive = state != "running" or self.store.is_held(name)
                waiting = self.store.names("queued") if state == "queued" else []
            position = waiting.index(name) + 1 if waiting else None
            job = self.store.read(state, name, position, is_alive)
            if job is not None:
                return job
        raise InUse(f"job {id}: changes too fast to be read.")

    def glance(self, id: str) -> Job:
        """The job of an id as its files say, soon: nobody waits, and no worker is looked for.

        Raises:
            UserError: there is none, or several begin so.
        """
        with suppress(UserError):  # it may change its state in between
            state, name = self.store.find(id)
            waiting = self.store.names("queued") if state == "queued" else []
            if state != "queued" or name in waiting:
                position = waiting.index(name) + 1 if waiting else None
                job = self.store.read(state, name, position, has_worker=True)
                if job is not None:
                    return job
        return self.job(id)

    def in_order(self) -> list[tuple[str, Callable[[], Job]]]:
        """The ids of all jobs, in the order in which they were added, and what reads each.

        Reading raises `UserError` for one that is there no more, and looks for no worker.
        """
        with self.store.turn():
            found = [
                (self.store.path(state, name).stat().st_mtime, name, state, number)
                for state in STATES
                for number, name in enumerate(self.store.names(state), 1)
            ]

        def read(name: str, state: State, number: int) -> Job:
            position = number if state == "queued" else None
            job = self.store.read(state, name, position, has_worker=True)
            return self.glance(id_of(name)) if job is None else job

        return [
            (id_of(name), partial(read, name, state, number))
            for _, name, state, number in sorted(found)
        ]

    def add(self, values: Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
        """Add a job behind all others, and return its id.

        Args:
            values: `prompt` and `settings`, or a whole recipe.
            overrides: `name=value` over its settings; what they change is no recipe any more.

        Raises:
            UserError: see `check_settings`.
            QueueFull: too many wait.
        """
        (id,) = self.add_all([_changed(values, None, overrides) if overrides else values])
        return id

    def add_all(self, several: Sequence[Mapping[str, Any]]) -> list[str]:
        """Add jobs, all of them or none, and return their ids.

        Raises:
            UserError: see `add`.
        """
        for values in several:
            check_values(values, "job")
            check_settings(values["settings"])
        with self.store.turn():
            waiting = self.store.names("queued")
            if len(waiting) + len(several) > self.most:
                raise QueueFull(
                    f"{self.folder}: {len(waiting):,} jobs wait, and {self.most:,} may. Wait, or "
                    "cancel some."
                )
            ids, place = [], self.store.last_place()
            for values in several:
                place += GAP
                ids.append(self.store.write_new(values, place))
        return ids

    def edit(
        self,
        id: str,
        prompt: str | None = None,
        overrides: Sequence[str] = (),
        values: Mapping[str, Any] | None = None,
    ) -> Job:
        """Change the prompt or settings of a job that waits, or that failed or was cancelled.

        Args:
            overrides: `name=value` over its settings.
            values: its whole content, instead of that.

        Raises:
            WrongState: it runs or is done.
            UserError: see `check_settings`.
        """
        with self.store.turn():
            state, name = self.store.find(id)
            if state == "running":
                raise WrongState(
                    f"job {id_of(name)[:8]} runs, and is not changed any more. Cancel it and queue "
                    "it again with other settings, `t2v queue cancel` and `t2v queue retry`, or "
                    "duplicate it.",
                    state,
                )
            if state == "done":
                raise WrongState(
                    f"job {id_of(name)[:8]} is done. Duplicate it with other settings: "
                    "`t2v queue duplicate`.",
                    state,
                )
            job = self.store.read(state, name, None, has_worker=False)
            assert job is not None
            self._write(job, values or _changed(_good(job), prompt, overrides))
        return self.job(id)

    def _write(self, job: Job, values: Mapping[str, Any]) -> None:
        state, name = job.state, job.name
        check_values(values, f"job {job.id[:8]}")
        check_settings(values["settings"])
        self.store.write(state, name, values)
        os.utime(self.store.path(state, name), (job.created, job.created))
        self.store.drop_work(id_of(name))  # it is of another video

    def duplicate(self, id: str, prompt: str | None = None, overrides: Sequence[str] = ()) -> str:
        """Add a job with the prompt and settings of another one, and return its id.

        The video is another file, in the queue's own folder unless an override says where.

        Raises:
            UserError: see `add`.
        """
        return self.add(_changed(_good(self.job(id)), prompt, overrides, without=("output",)))

    def move(self, id: str, position: int) -> Job:
        """Give a job that waits another position, from 1; beyond the last is the last.

        Raises:
            WrongState: it does not wait.
            UserError: the position is below 1.
        """
        if position < 1:
            raise UserError(f"position {position}: positions begin with 1.")
        with self.store.turn():
            state, name = self.store.find(id)
            if state != "queued":
                raise WrongState(
                    f"job {id_of(name)[:8]} is {state}, and only those that wait move.", state
                )
            others = [each for each in self.store.names("queued") if each != name]
            place = self.store.place_at(others, position - 1)
            self.store.rename(("queued", name), ("queued", file_name(place, id_of(name))))
        return self.job(id)

    def cancel(self, id: str) -> Job:
        """Cancel a job that waits or runs; one that runs ends at its next step, and keeps nothing.

        Raises:
            WrongState: it has ended.
        """
        with self.store.turn():
            state, name = self.store.find(id)
            if state in ENDED:
                raise WrongState(f"job {id_of(name)[:8]} is {state} already.", state)
            self.store.rename((state, name), ("cancelled", name))
            if state == "queued":
                self.store.drop_work(id_of(name))
        return self.job(id)

    def retry(self, id: str, prompt: str | None = None, overrides: Sequence[str] = ()) -> Job:
        """Queue a job again that failed or was cancelled, behind all others.

        Raises:
            WrongState: it is in another state.
            UserError: see `check_settings`.
        """
        with self.store.turn():
            state, name = self.store.find(id)
            if state not in ("failed", "cancelled"):
                raise WrongState(
                    f"job {id_of(name)[:8]} is {state}, and only those that failed or "
                    "were cancelled are tried again.",
                    state,
                )
            if prompt is not None or overrides:
                job = self.store.read(state, name, None, has_worker=False)
                assert job is not None
                self._write(job, _changed(_good(job), prompt, overrides))
            for each in ("result.json", "deaths.json", "killed"):
                (self.store.files / id_of(name) / each).unlink(missing_ok=True)
            place = self.store.last_place() + GAP
            self.store.rename((state, name), ("queued", file_name(place, id_of(name))))
        return self.job(id)

    def delete(self, id: str, mark: str) -> bool:
        """Forget a job in any state, with its video where that is in the queue's own folder.

        One that runs is cancelled, and stays, with an empty file `mark` among its files, until its
        worker has let go and this is called again. Returns True where it is gone.

        Raises:
            UserError: there is none.
        """
        with self.store.turn():
            state, name = self.store.find(id)
            if state not in ENDED:
                self.store.rename((state, name), ("cancelled", name))
            if self.store.is_held(name):
                (self.store.files / id_of(name) / mark).touch()
                return False
            self.store.drop_work(id_of(name))
            self.store.drop_parts(id_of(name))
            self.store.remove(state if state in ENDED else "cancelled", name)
        return True

    def clear(self, states: Collection[State] = ENDED) -> int:
        """Forget the jobs in those states, which have ended; their videos stay. Returns how many.

        Raises:
            UserError: a state of jobs that have not ended.
        """
        if others := [state for state in states if state not in ENDED]:
            raise UserError(f"{', '.join(others)}: have not ended. Allowed: {', '.join(ENDED)}.")
        count = 0
        with self.store.turn():
            for state in states:
                for name in self.store.names(state):
                    if self.store.is_held(name):
                        continue  # its worker is about to end it
                    self.store.remove(state, name)
                    count += 1
        return count


def _good(job: Job) -> dict[str, Any]:
    """The content of a job, whose file can be read."""
    if job.problem:
        raise UserError(job.problem)
    return job.values


def _here(folder: str | Path) -> Path:
    """The whole path of a folder; of no address, as a queue lives by moves and locks."""
    if re.match(r"\w+:/", str(folder)):
        raise UserError(f"{folder}: is an address. Give a folder of this machine for a queue.")
    return Path(folder).absolute()


def _changed(
    values: Mapping[str, Any],
    prompt: str | None,
    overrides: Sequence[str],
    without: Collection[str] = (),
) -> dict[str, Any]:
    """The content of a job with another prompt and settings.

    A recipe that is changed is no recipe of a video that was made: its hashes are left out.

    Raises:
        UserError: see `check_settings`.
    """
    stored = {name: each for name, each in values["settings"].items() if name not in without}
    if prompt is None and not overrides:
        return {**values, "settings": stored}
    if "weights" in values:  # a recipe: what is not in it was not there yet
        stored = {"upscale": 1, "offload": "none", **stored}
    if "story" in values:
        stored.pop("num_frames", None)  # which its scenes say
    if "story" in values and prompt is not None:
        raise UserError("a story has its prompts in its scenes: add it anew with others.")
    settings = differences(whole_paths(load_config(SampleConfig, None, overrides, stored)))
    about = {"prompt": values["prompt"] if prompt is None else prompt, "settings": settings}
    return about | {name: values[name] for name in ("story", "remixed_from") if name in values}
