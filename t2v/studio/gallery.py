"""The gallery: all finished videos, and what is done with several of them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from t2v.queue.job import Job
from t2v.serve.errors import Refused
from t2v.serve.pictures import draw
from t2v.studio.finished import PAGE, Finished
from t2v.studio.pages import Pages

PIECE = 2**16  # bytes that are read at a time
LONGEST_SEARCH = 500  # characters


def gallery_of(pages: Pages, finished: Finished) -> list[BaseRoute]:
    """The paths of the gallery."""

    def gallery(request: Request) -> Response:
        query = request.query_params
        search, is_starred = query.get("q", "")[:LONGEST_SEARCH], "starred" in query
        newest = finished.newest()
        part = finished.part(query.get("before", ""), search, is_starred)
        other = finished.shown(finished.job(query["with"])) if query.get("with") else None
        answer = pages.page(
            request,
            "gallery.html.j2",
            part=part,
            search=search,
            starred=is_starred,
            other=other,
            newest=newest,
        )
        # one by one, as the browser asks for them, each would take a process of its own
        is_ending = request.app.state.is_ending
        answer.background = BackgroundTask(draw, finished.files(part), "thumbnail", is_ending)
        return answer

    def newest(request: Request) -> JSONResponse:
        return JSONResponse({"newest": finished.newest()})

    def download(request: Request) -> Response:
        jobs = [finished.job(id) for id in ids_of(request)[:PAGE]]
        files = [(name_of(job), finished.videos.file(job)) for job in jobs]
        here = [(name, path) for name, path in files if path is not None]
        if not here:
            raise Refused(400, "None of these videos has a file here.", "video_not_ready", "ids")
        if len(jobs) == 1:
            return RedirectResponse(f"/v1/videos/video_{jobs[0].id}/content", 303)
        headers = {"Content-Disposition": 'attachment; filename="videos.zip"'}
        return StreamingResponse(zipped(here), media_type="application/zip", headers=headers)

    def star(request: Request) -> JSONResponse:
        finished.star(request.path_params["id"], request.method == "PUT")
        return JSONResponse({"is_starred": request.method == "PUT"})

    return [
        Route("/gallery", pages.told(gallery), methods=["GET"]),
        Route("/gallery/newest", newest, methods=["GET"]),
        Route("/gallery/download", pages.told(download), methods=["GET"]),
        Route("/videos/{id}/star", star, methods=["PUT", "DELETE"]),
    ]


def ids_of(request: Request) -> list[str]:
    """The ids of a query, given one by one or with commas between them; each once."""
    given = [id.strip() for each in request.query_params.getlist("ids") for id in each.split(",")]
    return list(dict.fromkeys(filter(None, given)))


def name_of(job: Job) -> str:
    """The name of a video's file for people: the first words of its prompt, and of its id."""
    words = re.sub(r"[^a-z0-9]+", "-", job.prompt.lower())[:40].strip("-")
    return f"{words or 'video'}-{job.id[:8]}{job.output.suffix}"


def zipped(files: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """The pieces of a zip file of some files, read as they are sent."""
    tail = _Tail()
    with ZipFile(tail, "w") as archive:  # films are small already, so they are stored
        for name, path in files:
            about = ZipInfo.from_file(path, name)
            with path.open("rb") as source, archive.open(about, "w") as entry:
                while piece := source.read(PIECE):
                    entry.write(piece)
                    yield tail.taken()
    yield tail.taken()


class _Tail(io.RawIOBase):
    """The bytes that were written since they were last taken."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.bytes += data
        return len(data)

    def taken(self) -> bytes:
        found = bytes(self.bytes)
        self.bytes.clear()
        return found
