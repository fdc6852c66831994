"""The queue as a page sees it: what runs, what waits and what has ended, as one stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import anyio
from anyio.to_thread import run_sync

from t2v.errors import UserError
from t2v.queue.job import Job, State
from t2v.queue.store import number
from t2v.serve.events import event, newer_preview
from t2v.serve.videos import DELETED, Videos

POLL, QUIET = 0.1, 15.0  # seconds between two looks, and without a word
STALE = 2.0  # seconds after which all is read again; times of folders miss changes of one instant
MOST_WAITING, MOST_ENDED = 200, 24  # videos that are told
FAILED: tuple[State, ...] = ("failed", "cancelled")
STEPS = ("stage", "step", "steps", "sample", "samples", "left")  # of the progress, beside its share


class Feed:
    """The videos of a queue in the lists of a page.

    A list is read again when its folders have changed, so that a look that finds nothing new costs
    a few calls of `stat`.
    """

    def __init__(self, videos: Videos) -> None:
        self.videos = videos
        self._lists: dict[str, tuple[tuple[object, ...], list[dict[str, Any]]]] = {}
        self._previews: dict[str, float] = {}

    def look(self) -> dict[str, Any]:
        """The videos that wait, run, are done and were not made, and how many wait.

        Those that wait are in their order, up to 200 of them; of those that have ended, the latest
        24 come, the last one first. Those that run have `stage`, `step`, `steps`, `sample`,
        `samples` and `left` beside what OpenAI's video has, and `has_worker`, false where their
        worker is dead.
        """
        queue = self.videos.queue
        queued = self._kept("queued", ["queued"], self._waiting)
        running = queue.jobs({"running"}) if queue.store.names("running") else []
        is_cut = len(queued) == MOST_WAITING
        return {
            "queued": queued,
            "waiting": len(queue.store.names("queued")) if is_cut else len(queued),
            "running": [self._shown(job) for job in running if job.state == "running"],
            "done": self._kept("done", ["done"], partial(self._latest, ["done"])),
            "failed": self._kept("failed", FAILED, partial(self._latest, FAILED)),
        }

    def previews(self, running: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
        """The previews of those videos that are newer than the last ones given."""
        found = []
        for video in running:
            id = video["id"]
            path = self.videos.queue.store.files / id.removeprefix("video_") / "preview.png"
            picture, seen = newer_preview(path, self._previews.get(id, 0.0))
            if picture is not None:
                self._previews[id] = seen
                found.append({"id": id, "b64_png": picture})
        return found

    def _kept(
        self, name: str, states: Sequence[State], read: Callable[[], list[Job]]
    ) -> list[dict[str, Any]]:
        folder = self.videos.queue.folder
        times = tuple((folder / state).stat().st_mtime_ns for state in states)
        key = (*times, int(time.monotonic() / STALE))
        if self._lists.get(name, ((), []))[0] != key:
            self._lists[name] = (key, [self._shown(job) for job in read()])
        return self._lists[name][1]

    def _waiting(self) -> list[Job]:
        names = self.videos.queue.store.names("queued")[:MOST_WAITING]
        return self._read("queued", names, 1)

    def _latest(self, states: Sequence[State]) -> list[Job]:
        store = self.videos.queue.store
        jobs = [
            job for state in states for job in self._read(state, store.names(state)[-MOST_ENDED:])
        ]
        jobs.sort(key=lambda job: number(job.result, "time") or job.created, reverse=True)
        return jobs[:MOST_ENDED]

    def _read(self, state: State, names: Sequence[str], first: int | None = None) -> list[Job]:
        """The jobs of those files, but the ones that have gone on or were deleted."""
        found = []
        for place, name in enumerate(names):
            position = None if first is None else first + place
            job = self.videos.queue.store.read(state, name, position, has_worker=True)
            if job is not None and not (job.files / DELETED).exists():
                found.append(job)
        return found

    def _shown(self, job: Job) -> dict[str, Any]:
        video = self.videos.shown(job)
        if job.state == "running":
            video |= {name: job.progress.get(name) for name in STEPS}
            video["has_worker"] = job.has_worker
        return video


async def events(feed: Feed, is_ending: Callable[[], bool]) -> AsyncIterator[str]:
    """The events of a page: what `Feed.look` gives, by its names, where it has changed.

    `preview` has a PNG of a video that runs. They end where the queue cannot be read.

    Args:
        is_ending: true when the server is to end.
    """
    told, spoke = dict[str, Any](), time.monotonic()
    while not is_ending():
        try:
            found, previews = await run_sync(_look, feed)
        except (UserError, FileNotFoundError):
            return
        news = [event("preview", each) for each in previews]
        news += [event(name, each) for name, each in found.items() if told.get(name) != each]
        told = found
        if news:
            spoke = time.monotonic()
            yield "".join(news)
        elif time.monotonic() - spoke > QUIET:
            spoke = time.monotonic()
            yield ": still here\n\n"
        await anyio.sleep(POLL)


def _look(feed: Feed) -> tuple[dict[str, Any], list[dict[str, str]]]:
    found = feed.look()
    return found, feed.previews(found["running"])
