"""Jobs of a queue as OpenAI's videos: made, found, listed and deleted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from t2v.errors import UserError
from t2v.queue.folder import ENDED, Queue, QueueFull
from t2v.queue.job import Job
from t2v.queue.store import VIDEOS, told
from t2v.serve.errors import Refused
from t2v.serve.models import Model

ID = re.compile(r"[0-9a-f]{32}")
PREFIX = "video_"
UPLOADS = "uploads"  # folder of a queue: pictures that clients sent
DELETED = "deleted"  # file of a job that is gone as soon as its worker lets go
STATUS = {
    "queued": "queued",
    "running": "in_progress",
    "done": "completed",
    "failed": "failed",
    "cancelled": "failed",
}
UNKNOWN_WAIT, LONGEST_WAIT = 60.0, 3600.0  # seconds until a place is free
MEASURED = 10  # finished videos whose times tell how long one takes


class Videos:
    """The videos of a queue.

    Args:
        models: that clients may ask for, by their names.
    """

    def __init__(self, queue: Queue, models: Mapping[str, Model]) -> None:
        self.queue, self.models = queue, models
        self.names = {model.setting: model for model in models.values()}
        self.uploads = queue.folder / UPLOADS
        self.uploads.mkdir(exist_ok=True)
        self.leaving = {job.id for job in queue.jobs(ENDED) if (job.files / DELETED).exists()}

    def add(self, prompt: str, settings: Mapping[str, Any]) -> Job:
        """Add a video to the queue.

        Raises:
            Refused: too many wait; it says when to come again.
        """
        try:
            id = self.queue.add({"prompt": prompt, "settings": dict(settings)})
        except QueueFull as error:
            raise self._full() from error
        return self.job(id)

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
                job = self.queue.job(digits)
                if not (job.files / DELETED).exists():
                    return job
        raise Refused(404, "There is no video of this id.", "video_not_found", "video_id")

    def listed(self, after: str | None, limit: int, order: str) -> tuple[list[Job], bool]:
        """Up to `limit` jobs behind a video in the order of time, and whether more follow.

        Raises:
            Refused: `after` is no video.
        """
        ids = self.queue.ids()
        if order == "desc":
            ids.reverse()
        if after is not None:
            ids = ids[ids.index(self.job(after).id) + 1 :]
        found: list[Job] = []
        for id in ids:
            if len(found) > limit:
                break
            with suppress(Refused):  # deleted since
                found.append(self.job(id))
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
                self._drop_upload(job)

    def _drop_upload(self, job: Job) -> None:
        """Remove the picture that a client sent for a job, unless another job has it too."""
        path = job.settings.get("image")
        if not isinstance(path, str) or Path(path).parent != self.uploads:
            return
        if all(other.settings.get("image") != path for other in self.queue.jobs()):
            Path(path).unlink(missing_ok=True)

    def file(self, job: Job) -> Path | None:
        """The finished video of a job in the queue's own folder; None where it is elsewhere."""
        path = job.output
        is_own = path.parent == self.queue.folder / VIDEOS and path.name.startswith(job.id)
        return path if is_own and path.is_file() and not path.is_symlink() else None

    def shown(self, job: Job) -> dict[str, Any]:
        """A job as OpenAI's `Video`, with its seed, and its position where it waits."""
        settings, made = job.settings, self._made(job)
        model = self.names.get(str(settings.get("model", "t2v-tiny")))
        ended = job.result.get("time") if job.state in ("done", "failed", "cancelled") else None
        share = 1.0 if job.state == "done" else job.progress.get("share", 0.0)
        return {
            "id": f"{PREFIX}{job.id}",
            "object": "video",
            "created_at": int(job.created),
            "completed_at": int(ended) if isinstance(ended, int | float) else None,
            "expires_at": None,
            "status": STATUS[job.state],
            "progress": int(100 * share) if isinstance(share, int | float) else 0,
            "model": "other" if model is None else model.name,
            "prompt": job.prompt,
            "seconds": made.get("seconds") or _seconds(settings, model),
            "size": made.get("size") or _size(settings, model),
            "seed": settings.get("seed", 0),
            "position": job.position,
            "remixed_from_video_id": None,
            "error": self._error(job),
        }

    def _made(self, job: Job) -> dict[str, str]:
        """Length and size of a video that is finished, by its recipe."""
        if job.state != "done":
            return {}
        made = told(job.output.with_suffix(".json")).get("settings", {})
        with suppress(KeyError, TypeError, ZeroDivisionError):
            scale = made.get("upscale") or 1
            return {
                "seconds": f"{made['num_frames'] / made['fps']:g}",
                "size": f"{made['width'] * scale}x{made['height'] * scale}",
            }
        return {}

    def _error(self, job: Job) -> dict[str, str] | None:
        if job.state == "cancelled":
            return {"code": "cancelled", "message": "The video was cancelled."}
        if job.state != "failed":
            return None
        text = str(job.result.get("message") or job.problem or "It failed.")
        if "(a bug; " in text:
            text = "The server met a bug; its log says more."
        for model in self.models.values():
            text = text.replace(model.setting, model.name)
        return {
            "code": "generation_failed",
            "message": text.replace(f"{self.queue.folder}/", "")[:1000],
        }


def _seconds(settings: Mapping[str, Any], model: Model | None) -> str:
    given = settings.get("duration") or (model.seconds if model else None)
    return f"{given:g}" if isinstance(given, int | float) else "auto"


def _size(settings: Mapping[str, Any], model: Model | None) -> str:
    width, height = settings.get("width"), settings.get("height")
    if not isinstance(width, int) or not isinstance(height, int):
        return "auto" if model is None else model.size
    scale = settings.get("upscale") or (model.scale if model else 1)
    return f"{width * scale}x{height * scale}"
