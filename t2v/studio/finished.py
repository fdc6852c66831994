"""The finished videos of a queue as pages list them: newest first, found by their prompts."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2v.errors import UserError
from t2v.queue.job import Job, read_values
from t2v.queue.store import id_of
from t2v.serve.errors import Refused
from t2v.serve.videos import DELETED, PREFIX, Videos

PAGE = 48  # videos of a page
STALE = 2.0  # seconds after which all is read again; times of folders miss changes of one instant
STAR = "star"  # file of a job that someone marked


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some of the finished videos.

    Args:
        films: the jobs as `Finished.shown` gives them.
        total: how many there are on all pages.
        first: the number of the first one among them, from 1; 0 where there is none.
        older: the last id of this page, where more follow.
        newer: the id that the page before this one follows; empty for the first page, None where
            this is it.
        is_lost: the video that this page was to follow is gone, and these are the newest.
    """

    jobs: Sequence[Job]
    films: Sequence[dict[str, Any]]
    total: int
    first: int
    older: str | None
    newer: str | None
    is_lost: bool


class Finished:
    """The finished videos of a queue.

    Prompts are read once: a job that is done does not change.
    """

    def __init__(self, videos: Videos) -> None:
        self.videos, self.store = videos, videos.queue.store
        self._prompts: dict[str, str] = {}
        self._read: tuple[tuple[int, int], list[str]] = ((0, 0), [])

    def names(self, search: str = "", starred: bool = False) -> list[str]:
        """The files of the jobs that are done, newest first.

        Args:
            search: words that the prompt holds, in any case and order.
            starred: only those that are marked.
        """
        found = self._newest_first()
        if starred:
            found = [name for name in found if self.is_starred(id_of(name))]
        words = search.casefold().split()
        if not words:
            return found
        prompts = {name: self._prompts.get(name) or self._prompt(name) for name in found}
        self._prompts |= prompts
        return [name for name in found if all(word in prompts[name] for word in words)]

    def _newest_first(self) -> list[str]:
        """The files of the jobs that are done, read again when their folder has changed."""
        folder = self.store.folder / "done"
        key = (folder.stat().st_mtime_ns, int(time.monotonic() / STALE))
        if self._read[0] != key:
            times = dict[str, float]()
            for name in self.store.names("done"):
                with suppress(FileNotFoundError):
                    times[name] = self.store.path("done", name).stat().st_mtime
            found = sorted(times, key=lambda name: (times[name], name), reverse=True)
            self._read = (key, found)
            self._prompts = {name: self._prompts[name] for name in self._prompts if name in times}
        return list(self._read[1])

    def _prompt(self, name: str) -> str:
        with suppress(UserError):
            return str(read_values(self.store.path("done", name))["prompt"]).casefold()
        return ""

    def newest(self) -> str:
        """The id of the newest video; empty where there is none."""
        return next((f"{PREFIX}{id_of(name)}" for name in self._newest_first()), "")

    def part(self, before: str, search: str, starred: bool) -> Part:
        """A page of videos.

        Args:
            before: the id of the video that they follow; empty: the newest ones.
        """
        names = self.names(search, starred)
        ids = [f"{PREFIX}{id_of(name)}" for name in names]
        is_lost = bool(before) and before not in ids
        start = ids.index(before) + 1 if before and not is_lost else 0
        read = [self.store.read("done", name, None, True) for name in names[start : start + PAGE]]
        jobs = [job for job in read if job is not None]
        earlier = start - PAGE - 1
        return Part(
            jobs=jobs,
            films=[self.shown(job) for job in jobs],
            total=len(names),
            first=start + 1 if names[start:] else 0,
            older=ids[start + PAGE - 1] if len(ids) > start + PAGE else None,
            newer=None if not start else ids[earlier] if earlier >= 0 else "",
            is_lost=is_lost,
        )

    def files(self, part: Part) -> list[tuple[Path, Path]]:
        """The file of each video of a page that has one here, and the folder of its job."""
        found = [(self.videos.file(job), job.files) for job in part.jobs]
        return [(file, folder) for file, folder in found if file is not None]

    def shown(self, job: Job) -> dict[str, Any]:
        """A video as the endpoint shows it, with `is_here` and `is_starred`."""
        is_here = self.videos.file(job) is not None and not (job.files / DELETED).exists()
        return {
            **self.videos.shown(job),
            "is_here": is_here,
            "is_starred": self.is_starred(job.id),
        }

    def job(self, id: str) -> Job:
        """The job of a video that is done.

        Raises:
            Refused: there is none, or it is not done.
        """
        job = self.videos.job(id)
        if job.state != "done":
            raise Refused(404, f"This video is {self.videos.shown(job)['status']}.", "not_done")
        return job

    def beside(self, id: str) -> tuple[str | None, str | None]:
        """The ids of the newer and the older video beside one."""
        ids = [f"{PREFIX}{id_of(name)}" for name in self.names()]
        if id not in ids:
            return None, None
        index = ids.index(id)
        newer = ids[index - 1] if index else None
        return newer, ids[index + 1] if index + 1 < len(ids) else None

    def is_starred(self, id: str) -> bool:
        """True where a video is marked."""
        return os.path.exists(self.store.files / id / STAR)  # noqa: PTH110  thousands are asked

    def star(self, id: str, is_on: bool) -> None:
        """Mark a finished video, or take the mark away.

        Raises:
            Refused: there is none.
        """
        job = self.job(id)
        if is_on:
            job.files.mkdir(exist_ok=True)
            (job.files / STAR).touch()
        else:
            (job.files / STAR).unlink(missing_ok=True)
