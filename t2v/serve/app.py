"""The application: paths, and what answers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from t2v.config.serve import ServeConfig
from t2v.errors import UserError
from t2v.queue.job import Job
from t2v.serve.body import read
from t2v.serve.changes import Changes
from t2v.serve.checks import text_of
from t2v.serve.content import File
from t2v.serve.errors import Refused, on_bug, on_disk, on_http, on_mistake, on_refused
from t2v.serve.events import Stream, events
from t2v.serve.guard import Guard
from t2v.serve.metrics import Metrics
from t2v.serve.models import Model
from t2v.serve.offered import shown_model
from t2v.serve.pictures import VARIANTS, Variant, picture_of
from t2v.serve.shown import STATUS
from t2v.serve.tokens import Counters
from t2v.serve.uploads import ENDINGS
from t2v.serve.videos import Videos

THREADS = 4  # that wait for pictures of videos; others answer in the meantime
LONGEST_PROMPT = 2**20  # bytes of one in a form
MOST_LISTED = 100  # videos of a page, as OpenAI has it


class Endpoints:
    """The answers to each path.

    Args:
        is_ending: true when the server is to end.
    """

    def __init__(
        self, videos: Videos, config: ServeConfig, metrics: Metrics, is_ending: Callable[[], bool]
    ) -> None:
        self.videos, self.config, self.metrics = videos, config, metrics
        self.is_ending, self.counters = is_ending, Counters()
        self.threads = anyio.CapacityLimiter(THREADS)

    def routes(self) -> list[Route]:
        """All paths."""
        one = "/v1/videos/{id}"
        return [
            Route("/v1/videos", self.list, methods=["GET"]),
            Route(one, self.retrieve, methods=["GET"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/content", self.content, methods=["GET"]),
            Route(f"{one}/events", self.follow, methods=["GET"]),
            Route(f"{one}/inputs/{{name}}", self.input, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/v1/prompts", self.prompt, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.measures, methods=["GET"]),
        ]

    def list(self, request: Request) -> JSONResponse:
        """Some of the videos, and whether there are more."""
        query = request.query_params
        limit, order = query.get("limit", "20"), query.get("order", "desc")
        if not limit.isdecimal() or not 1 <= int(limit[:9]) <= MOST_LISTED:
            raise Refused(400, f"limit must be from 1 to {MOST_LISTED}.", "invalid_value", "limit")
        if order not in ("asc", "desc"):
            raise Refused(400, "order must be asc or desc.", "invalid_value", "order")
        jobs, has_more = self.videos.listed(query.get("after"), int(limit), order)
        data = [self.videos.shown(job) for job in jobs]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return JSONResponse(
            {
                "object": "list",
                "data": data,
                "first_id": first,
                "last_id": last,
                "has_more": has_more,
            }
        )

    def retrieve(self, request: Request) -> JSONResponse:
        """A video's status."""
        return JSONResponse(self.videos.shown(self._job(request)))

    def delete(self, request: Request) -> JSONResponse:
        """Delete a video; one that waits or runs is cancelled."""
        id = self._job(request).id
        self.videos.delete(id)
        return JSONResponse({"id": f"video_{id}", "object": "video.deleted", "deleted": True})

    async def content(self, request: Request) -> Response:
        """The file of a finished video, or a part of it, or a small picture of it."""
        variant = request.query_params.get("variant", "video")
        if variant != "video" and variant not in VARIANTS:
            raise Refused(
                400,
                f"variant must be video, {' or '.join(get_args(Variant))}.",
                "invalid_value",
                "variant",
            )
        job, path = await run_sync(self._finished, request)
        if variant == "video":
            kind = {".mp4": "video/mp4", ".webm": "video/webm"}.get(path.suffix)
            return File(path, media_type=kind, filename=f"video_{job.id}{path.suffix}")
        kind_of: Any = variant
        small = await run_sync(picture_of, path, job.files, kind_of, limiter=self.threads)
        return File(small, media_type=VARIANTS[kind_of][1])

    def _finished(self, request: Request) -> tuple[Job, Path]:
        job = self._job(request)
        path = self.videos.file(job) if job.state == "done" else None
        if path is None:
            status = STATUS[job.state]
            why = "is kept elsewhere" if status == "completed" else f"is {status}"
            raise Refused(400, f"The video {why}, and has no content here.", "video_not_ready")
        return job, path

    async def input(self, request: Request) -> Response:
        """A file that a client sent for a video, or of a clip a small picture."""
        job = await run_sync(self._job, request)
        name = request.path_params["name"]
        path = await run_sync(self.videos.upload, job, name)
        variant = request.query_params.get("variant")
        if variant not in (None, "thumbnail"):
            raise Refused(400, "variant must be thumbnail.", "invalid_value", "variant")
        if variant is None or path.suffix == ENDINGS["picture"]:
            return File(path)
        folder = job.files / f"{name}-{path.stem}"  # another clip may come in its place
        folder.mkdir(parents=True, exist_ok=True)
        kind: Variant = "thumbnail"
        small = await run_sync(picture_of, path, folder, kind, limiter=self.threads)
        return File(small, media_type=VARIANTS[kind][1])

    async def follow(self, request: Request) -> Stream:
        """The events of a video, as they come."""
        job = await run_sync(self._job, request)
        told = events(self.videos, job.id, self.is_ending)
        return Stream(told, self.metrics, self.config.max_streams)

    def models(self, request: Request) -> JSONResponse:
        """The models that may be asked for."""
        data = [self._shown(model) for model in [*self.videos.models.values()]]
        return JSONResponse({"object": "list", "data": data})

    def model(self, request: Request) -> JSONResponse:
        """One of them."""
        model = self.videos.models.get(request.path_params["name"])
        if model is None:
            raise Refused(404, "There is no model of this name.", "model_not_found", "model")
        return JSONResponse(self._shown(model))

    def _shown(self, model: Model) -> dict[str, Any]:
        return shown_model(model, self.config, self.videos.offer.loras)

    async def prompt(self, request: Request) -> JSONResponse:
        """The tokens of a prompt, how many fit, and the words that the model does not know."""
        values = await read(request, LONGEST_PROMPT, ("model", "prompt"))
        named = {} if values.get("model") is None else {"model": values["model"]}
        model = self.videos.offer.of({}, named)
        text = text_of(values, "prompt", self.config.max_prompt)
        return JSONResponse(await run_sync(self.counters.told, model, text))

    def health(self, request: Request) -> JSONResponse:
        """A sign of life; 503 where no worker is alive that should be."""
        is_well = self.metrics.workers > 0 or not self.config.devices
        return JSONResponse({"status": "ok" if is_well else "no worker"}, 200 if is_well else 503)

    def measures(self, request: Request) -> Response:
        """Measurements, for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    def _job(self, request: Request) -> Job:
        return self.videos.job(request.path_params["id"])


def application(
    videos: Videos,
    config: ServeConfig,
    token: str | None,
    metrics: Metrics,
    is_ending: Callable[[], bool],
    lifespan: Any = None,
    pages: Sequence[BaseRoute] = (),
) -> Guard:
    """The whole application, behind what every request passes.

    Args:
        pages: paths beside those of the endpoint, for browsers.
    """
    endpoints = Endpoints(videos, config, metrics, is_ending)
    app = Starlette(
        routes=[*endpoints.routes(), *Changes(videos, config, endpoints.counters).routes(), *pages],
        exception_handlers={
            Refused: on_refused,
            UserError: on_mistake,
            HTTPException: on_http,
            OSError: on_disk,
            Exception: on_bug,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.metrics, app.state.is_ending = metrics, is_ending  # for streams of pages
    guarded = partial(Guard, token=token, names=(*config.names, config.host), metrics=metrics)
    return guarded(app, most=int(config.max_upload * 1e6), has_pages=bool(pages))
