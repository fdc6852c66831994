"""The page on which videos are made, and the stream of events that keeps it up to date."""

from __future__ import annotations

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from t2v.config.serve import StudioConfig
from t2v.serve.events import Stream
from t2v.serve.videos import Videos
from t2v.studio.feed import Feed, events
from t2v.studio.pages import Pages

EXAMPLES = (
    "a red ball bounces on grass",
    "a blue cube slides to the left on sand",
    "a green ring rises at night",
)


def make_of(pages: Pages, videos: Videos, config: StudioConfig) -> list[BaseRoute]:
    """The paths of the page: itself, its stream, and what the stream tells as one answer."""

    def make(request: Request) -> Response:
        models = [*videos.models.values()]
        return pages.page(request, "make.html.j2", models=models, limits=config, examples=EXAMPLES)

    async def stream(request: Request) -> Stream:
        state = request.app.state
        return Stream(events(Feed(videos), state.is_ending), state.metrics, config.max_streams)

    async def queue(request: Request) -> JSONResponse:
        return JSONResponse(await run_sync(Feed(videos).look))

    return [
        Route("/", make, methods=["GET"]),
        Route("/make/events", stream, methods=["GET"]),
        Route("/make/queue", queue, methods=["GET"]),
    ]
