"""Jobs of a queue as OpenAI's videos: made, found, listed and deleted."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from t2v.config.sampling import INPUTS
from t2v.errors import UserError
from t2v.queue.folder import Queue, QueueFull
from t2v.queue.job import Job
from t2v.queue.store import VIDEOS, told
from t2v.serve.errors import Refused
from t2v.serve.offer import Offer
from t2v.serve.shown import PREFIX, shown
from t2v.serve.uploads import FILES, drop_old

ID = re.compile(r"[0-9a-f]{32}")
UPLOADS = "uploads"  # folder of a queue: files that clients sent
DELETED = "deleted"  # file of a job that is gone as soon as its worker lets go
UNKNOWN_WAIT, LONGEST_WAIT = 60.0, 3600.0  # seconds until a place is free
MEASURED = 10  # finished videos whose times tell how long one takes


class Videos:
    """The videos of a queue.

    Args:
        offer: what clients may ask for.
    """

    def __init__(self, queue: Queue, offer: Offer) -> None:
        self.queue, self.offer, self.models = queue, offer, offer.models
        self.lock = threading.Lock()  # files of clients are shared by several videos
        self.uploads = queue.folder / UPLOADS
        self.uploads.mkdir(exist_ok=True)
        jobs = queue.jobs()
        drop_old(self.uploads, {path for job in jobs for path in self._uploads_of(job.settings)})
        self.leaving = {job.id for job in jobs if _is_deleted(job)}

    def add(self, values: Mapping[str, Any]) -> Job:
        """Add a video to the queue.

        Args:
            values: the content of its job.

        Raises:
            Refused: too many wait; it says when to come again.
        """
        try:
            id = self.queue.add(values)
        except QueueFull as error:
            raise self._full() from error
        return self.job(id)

    def add_after(self, source: Job, values: Mapping[str, Any]) -> Job:
        """Add a video that may share files with another one.

        Raises:
            Refused: that one was deleted in between, or see `add`.
        """
        with self.lock:
            self.job(source.id)
            return self.add(values)

    def check_room(self) -> None:
        """Raise `Refused` where no more videos may wait, before anything is read."""
        if len(self.queue.store.names("queued")) >= self.queue.most:
            raise self._full()

    def _full(self) -> Refused:
        wait = max(1, round(self.wait()))
        return Refused(
            429,
            f"{self.queue.most:,} videos wait, as many as may; try again in {wait:,} s.",
            "queue_full",
            headers={"Retry-After": str(wait)},
        )

    def wait(self) -> float:
        """The seconds until a worker takes the next job, as the last videos and progress tell."""
        store = self.queue.store
        ended = [
            told(store.files / name.partition("-")[2].removesuffix(".json") / "result.json")
            for name in store.names("done")[-MEASURED:]
        ]
        times = [each["seconds"] for each in ended if isinstance(each.get("seconds"), int | float)]
        usual = sum(times) / len(times) if times else UNKNOWN_WAIT
        lefts = []
        for job in self.queue.jobs({"running"}):
            left, spent = job.progress.get("left"), job.progress.get("seconds", 0)
            lefts.append(left if isinstance(left, int | float) else usual - spent)
        return min(LONGEST_WAIT, max(1.0, min(lefts, default=usual)))

    def job(self, id: str) -> Job:
        """The job of a video.

        Raises:
            Refused: there is none, or it was deleted.
        """
        digits = id.removeprefix(PREFIX)
        if ID.fullmatch(digits):
            with suppress(UserError):
                job = self.queue.glance(digits)
                if not _is_deleted(job):
                    return job
        raise Refused(404, "There is no video of this id.", "video_not_found", "video_id")

    def listed(self, after: str | None, limit: int, order: str) -> tuple[list[Job], bool]:
        """Up to `limit` jobs behind a video in the order of time, and whether more follow.

        Raises:
            Refused: `after` is no video.
        """
        first = None if after is None else self.job(after).id
        entries = self.queue.in_order()
        if order == "desc":
            entries.reverse()
        ids = [id for id, _ in entries]
        found: list[Job] = []
        for _, read in entries[ids.index(first) + 1 if first in ids else 0 :]:
            if len(found) > limit:
                break
            with suppress(UserError):  # deleted since
                if not _is_deleted(job := read()):
                    found.append(job)
        return found[:limit], len(found) > limit

    def delete(self, id: str) -> None:
        """Delete a video, and cancel it where it waits or runs.

        Raises:
            Refused: there is none.
        """
        self.job(id)
        self.leaving.add(id.removeprefix(PREFIX))
        self.let_go()

    def let_go(self) -> None:
        """Remove what was deleted and no worker holds any more."""
        for id in list(self.leaving):
            try:
                job = self.queue.job(id)
            except UserError:
                self.leaving.discard(id)
                continue
            if self.queue.delete(id, DELETED):
                self.leaving.discard(id)
                self.drop_uploads(job.settings)

    def drop_uploads(self, settings: Mapping[str, Any]) -> None:
        """Remove the files that a client sent for settings, but those that a job has."""
        with self.lock:
            paths = self._uploads_of(settings)
            for job in self.queue.jobs() if paths else ():
                paths -= self._uploads_of(job.settings)
            for path in paths:
                Path(path).unlink(missing_ok=True)

    def _uploads_of(self, settings: Mapping[str, Any]) -> set[str]:
        given = (settings.get(name) for name in INPUTS)
        return {
            path for path in given if isinstance(path, str) and Path(path).parent == self.uploads
        }

    def upload(self, job: Job, name: str) -> Path:
        """The file that a client sent for a field of a job.

        Raises:
            Refused: there is none.
        """
        ours = self._uploads_of(job.settings)
        for setting in FILES.get(name, {}).values():
            path = job.settings.get(setting)
            if path in ours and Path(path).is_file():
                return Path(path)
        raise Refused(404, "The video has no such file.", "file_not_found")

    def file(self, job: Job) -> Path | None:
        """The finished video of a job in the queue's own folder; None where it is elsewhere."""
        path = job.output
        is_own = path.parent == self.queue.folder / VIDEOS and path.name.startswith(job.id)
        return path if is_own and path.is_file() and not path.is_symlink() else None

    def shown(self, job: Job) -> dict[str, Any]:
        """A job as OpenAI's `Video`."""
        return shown(job, self.offer, self.queue.folder, self.uploads)


def _is_deleted(job: Job) -> bool:
    """True for a job that is gone as soon as its worker lets go."""
    return os.path.exists(f"{job.files}/{DELETED}")  # noqa: PTH110  asked of every job of a list
