"""Server-sent events of a video: its progress and previews, until it ends."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from t2v.serve.errors import Refused
from t2v.serve.metrics import Metrics
from t2v.serve.videos import Videos

POLL, QUIET = 0.25, 15.0  # seconds between two looks, and without a word
MOST_PREVIEW = 2**20  # bytes


class Stream(StreamingResponse):
    """Events as they come; refused where as many streams are open as may.

    Args:
        most: streams that may be open at a time.
    """

    def __init__(self, events: AsyncIterator[str], metrics: Metrics, most: int) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.metrics, self.most = metrics, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.metrics.streams >= self.most:
            raise Refused(
                503,
                f"{self.most} event streams are open, as many as may; ask for the video itself "
                "from time to time.",
                "too_many_streams",
                headers={"Retry-After": "5"},
            )
        self.metrics.streams += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.metrics.streams -= 1


async def events(videos: Videos, id: str, is_ending: Callable[[], bool]) -> AsyncIterator[str]:
    """The events of a video: `progress` and `done` with the video, `preview` with a PNG.

    Args:
        is_ending: true when the server is to end; the stream then ends before the video.
    """
    shown, seen, spoke = dict[str, Any](), 0.0, time.monotonic()
    while not is_ending():
        try:
            video, preview, seen = await run_sync(_look, videos, id, seen)
        except Refused:
            yield event("deleted", {"id": id, "object": "video.deleted", "deleted": True})
            return
        if preview is not None:
            yield event("preview", {"id": video["id"], "b64_png": preview})
        if video["status"] in ("completed", "failed"):
            yield event("done", video)
            return
        if video != shown:
            shown, spoke = video, time.monotonic()
            yield event("progress", video)
        elif time.monotonic() - spoke > QUIET:
            spoke = time.monotonic()
            yield ": still here\n\n"
        await anyio.sleep(POLL)


def _look(videos: Videos, id: str, seen: float) -> tuple[dict[str, Any], str | None, float]:
    job = videos.job(id)
    preview, seen = newer_preview(job.files / "preview.png", seen)
    return videos.shown(job), preview, seen


def newer_preview(path: Path, seen: float) -> tuple[str | None, float]:
    """A preview that is newer than the last one, in base64, and its time."""
    try:
        about = path.stat()
        if about.st_mtime <= seen or about.st_size > MOST_PREVIEW:
            return None, seen
        return base64.b64encode(path.read_bytes()).decode(), about.st_mtime
    except FileNotFoundError:
        return None, seen


def event(name: str, data: Any) -> str:
    """A server-sent event with JSON."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
