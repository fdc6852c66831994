"""Requests that add videos to the queue, and change those that are in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from t2v.config.serve import ServeConfig
from t2v.queue.folder import WrongState
from t2v.queue.job import Job
from t2v.serve.body import read
from t2v.serve.checks import whole_of, words_of, wrong
from t2v.serve.contents import Contents, before, like, without_output
from t2v.serve.errors import Refused
from t2v.serve.fields import FIELDS, Wanted, wanted_of
from t2v.serve.recipes import told_of
from t2v.serve.shown import STATUS
from t2v.serve.tokens import Counters
from t2v.serve.uploads import upload_of
from t2v.serve.videos import Videos

LARGE = 2**20  # bytes of a body, beyond which few are read at a time
LARGE_AT_ONCE = 4
THREADS = 8  # that wait for files to be decoded; others answer in the meantime
PLACES = {"first": 1, "last": sys.maxsize}


class Changes:
    """The answers to requests that add a video, or change one.

    Args:
        counters: of the tokens of prompts.
    """

    def __init__(self, videos: Videos, config: ServeConfig, counters: Counters) -> None:
        self.videos, self.config, self.contents = videos, config, Contents(videos, config)
        self.counters = counters
        self.large = anyio.Semaphore(LARGE_AT_ONCE)
        self.threads = anyio.CapacityLimiter(THREADS)

    def routes(self) -> list[Route]:
        """The paths."""
        one = "/v1/videos/{id}"
        return [
            Route("/v1/videos", self.create, methods=["POST"]),
            Route("/v1/videos/edits", self.edit_clip, methods=["POST"]),
            Route("/v1/videos/extensions", self.extend, methods=["POST"]),
            Route(one, self.edit, methods=["PATCH"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
            Route(f"{one}/retry", self.retry, methods=["POST"]),
            Route(f"{one}/move", self.move, methods=["POST"]),
            Route(f"{one}/remix", self.remix, methods=["POST"]),
            Route(f"{one}/duplicate", self.duplicate, methods=["POST"]),
            Route("/v1/recipes", self.recipe, methods=["POST"]),
        ]

    async def create(self, request: Request) -> JSONResponse:
        """Add a video to the queue."""
        await run_sync(self.videos.check_room)
        return await self._with_fields(request, self._create)

    def _create(self, values: dict[str, Any]) -> Job:
        wanted = self._wanted(values)
        with self.contents.of(wanted) as content:
            return self.videos.add(content)

    def _wanted(self, values: dict[str, Any], before: Wanted | None = None) -> Wanted:
        wanted = wanted_of(values, self.config, self.videos.offer, before)
        if not wanted.settings.get("truncate"):
            self.counters.check(wanted, self.videos.offer.by_setting(wanted.settings))
        return wanted

    async def edit_clip(self, request: Request) -> JSONResponse:
        """Add a video that is the edit of a clip, or of a finished video."""
        return await self._of_clip(request, is_longer=False)

    async def extend(self, request: Request) -> JSONResponse:
        """Add a video that goes on from a clip, or from a finished video, for some seconds."""
        return await self._of_clip(request, is_longer=True)

    async def _of_clip(self, request: Request, is_longer: bool) -> JSONResponse:
        await run_sync(self.videos.check_room)

        def added(values: dict[str, Any]) -> Job:
            fields, source = self.contents.of_clip(values, is_longer)
            asked = None if source is None else like(source)
            wanted = self._wanted(fields, asked)
            id = None if source is None else source.id
            with self.contents.of(wanted, id, is_longer) as content:
                return self.videos.add(content)

        return await self._answer(
            request, ("video", *FIELDS), lambda values: self.videos.shown(added(values))
        )

    async def edit(self, request: Request) -> JSONResponse:
        """Change a video that waits, failed or was cancelled."""
        job = await run_sync(self._job, request)

        def edited(values: dict[str, Any]) -> Job:
            if not values:
                raise Refused(400, "Give the fields to change.", "missing_required_parameter")
            return self._edit(job, values)

        return await self._with_fields(request, edited)

    def _edit(self, job: Job, values: dict[str, Any]) -> Job:
        if job.state in ("running", "done"):  # before anything is decoded
            raise _unchangeable(STATUS[job.state])
        wanted = self._wanted(values, before(job))
        source = job.values.get("remixed_from")
        with self.contents.of(wanted, source) as content:
            try:
                edited = self.videos.queue.edit(job.id, values=content)
            except WrongState as error:
                raise _unchangeable(STATUS[error.state]) from error
        self.videos.drop_uploads(job.settings)
        return edited

    async def retry(self, request: Request) -> JSONResponse:
        """Queue a video again that failed or was cancelled, with other fields where some are."""
        job = await run_sync(self._job, request)
        await run_sync(self.videos.check_room)

        def again(values: dict[str, Any]) -> Job:
            state = job.state
            try:
                if values and state in ("failed", "cancelled"):
                    self._edit(job, values)
                return self.videos.queue.retry(job.id)
            except WrongState as error:
                raise Refused(
                    409,
                    f"The video is {STATUS[error.state]}, and one that failed or was cancelled is "
                    "tried again. Duplicate it for another one.",
                    "wrong_state",
                ) from error

        return await self._with_fields(request, again)

    async def duplicate(self, request: Request) -> JSONResponse:
        """Add a video like another one, with other fields where some are given."""
        return await self._after(request, ())

    async def remix(self, request: Request) -> JSONResponse:
        """Add a video with the fields of another one and another prompt."""
        return await self._after(request, ("prompt",))

    async def _after(self, request: Request, needed: Sequence[str]) -> JSONResponse:
        job = await run_sync(self._job, request)
        await run_sync(self.videos.check_room)

        def added(values: dict[str, Any]) -> Job:
            for name in needed:
                if values.get(name) is None:
                    raise Refused(400, f"{name} is missing.", "missing_required_parameter", name)
            if not values:
                return self.videos.add_after(job, without_output(job))
            wanted = self._wanted(values, before(job))
            wanted.settings.pop("output", None)
            with self.contents.of(wanted, job.id) as content:
                return self.videos.add_after(job, content)

        return await self._with_fields(request, added)

    def cancel(self, request: Request) -> JSONResponse:
        """Cancel a video that waits or runs."""
        job = self._job(request)
        try:
            return JSONResponse(self.videos.shown(self.videos.queue.cancel(job.id)))
        except WrongState as error:
            what = "cancelled" if error.state == "cancelled" else STATUS[error.state]
            raise Refused(409, f"The video is {what} already.", "wrong_state") from error

    async def move(self, request: Request) -> JSONResponse:
        """Give a video that waits another position."""
        values = await read(request, LARGE, ("position",))
        name = values.get("position")
        if name is None:
            message = "position is missing; give first, last or a number from 1."
            raise Refused(400, message, "missing_required_parameter", "position")
        position = PLACES[name] if name in ("first", "last") else None
        try:
            position = position or whole_of(values, "position", sys.maxsize)
        except Refused:
            allowed = "give first, last or a number from 1"
            raise wrong("position", f"is {words_of(name)}; {allowed}") from None
        return JSONResponse(await run_sync(self._move, request, position))

    def _move(self, request: Request, position: int) -> dict[str, Any]:
        job = self._job(request)
        try:
            return self.videos.shown(self.videos.queue.move(job.id, position))
        except WrongState as error:
            message = f"The video is {STATUS[error.state]}, and only those that wait move."
            raise Refused(409, message, "wrong_state") from error

    async def recipe(self, request: Request) -> JSONResponse:
        """The fields that a file was made with, by the recipe in it."""

        def told(values: dict[str, Any]) -> dict[str, Any]:
            if "file" not in values:
                raise Refused(400, "file is missing.", "missing_required_parameter", "file")
            data = upload_of(values["file"], "file")
            if not isinstance(data, bytes):
                raise Refused(400, "file is no file.", "invalid_value", "file")
            return told_of(data, self.videos.uploads, self.videos.offer)

        return await self._answer(request, ("file",), told)

    async def _with_fields(
        self, request: Request, change: Callable[[dict[str, Any]], Job]
    ) -> JSONResponse:
        """Read the fields of a request, and answer with the video that is changed by them."""
        return await self._answer(request, FIELDS, lambda values: self.videos.shown(change(values)))

    async def _answer(
        self,
        request: Request,
        known: Sequence[str],
        work: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> JSONResponse:
        most = int(self.config.max_upload * 1e6)

        async def answered() -> JSONResponse:
            values = await read(request, most, known)
            return JSONResponse(await run_sync(work, values, limiter=self.threads))

        usual = 0 if request.headers.get("transfer-encoding") is None else LARGE + 1
        if int(request.headers.get("content-length", usual)) > LARGE:
            async with self.large:
                return await answered()
        return await answered()

    def _job(self, request: Request) -> Job:
        return self.videos.job(request.path_params["id"])


def _unchangeable(status: str) -> Refused:
    do = "Cancel it first, or duplicate it." if status == "in_progress" else "Duplicate it."
    return Refused(
        409,
        f"The video is {status}, and is not changed any more; one that waits, failed or was "
        f"cancelled is. {do}",
        "wrong_state",
    )
