"""The frame, files and policy that every page shares."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from t2v.evaluation.report.html import HERE as REPORT
from t2v.evaluation.report.table import cell_text
from t2v.serve.errors import Refused

HERE = Path(__file__).parent
SERVED = (".js", ".css", ".svg")
# a page loads, runs and sends nothing but what is of this server: text that got in stays text
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",  # without it a form is sent as if by another site
}


class Pages:
    """The templates, with the tabs that lead from page to page.

    Args:
        tabs: addresses and names, as the head of each page lists them.
    """

    def __init__(self, tabs: Sequence[tuple[str, str]]) -> None:
        self.environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([HERE / "templates", REPORT]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.globals["tabs"] = tabs
        self.environment.filters |= {"instant": instant, "duration": duration}
        self.environment.filters |= {"cell": cell_text, "plain": plain}

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """A page of a template, see `templates/base.html.j2` for the blocks that it may fill."""
        text = self.part(template, path=request.url.path, **values)
        return HTMLResponse(text, status, HEADERS)

    def part(self, template: str, **values: Any) -> str:
        """The text of a template; halves of characters, which names may hold, become `?`."""
        text = self.environment.get_template(template).render(**values)
        return text.encode(errors="replace").decode()

    def told(self, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """The same function, whose refusals are told to browsers on a page."""

        @wraps(answer)
        def told(request: Request) -> Response:
            try:
                return answer(request)
            except Refused as error:
                if not _wants_page(request):
                    raise
                return self.page(request, "refused.html.j2", error.status, message=error.message)

        return told


class Elsewhere(Route):
    """Addresses below which there is nothing, but those of the endpoint, which it answers."""

    def __init__(self, pages: Pages) -> None:
        def nothing(request: Request) -> Response:
            raise Refused(404, f"There is no page {request.url.path[:100]} here.")

        super().__init__("/{path:path}", pages.told(nothing), methods=["GET"])

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """No match for an address of the endpoint."""
        return (Match.NONE, {}) if scope["path"].startswith("/v1/") else super().matches(scope)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def plain(message: str) -> str:
    """A message without the marks of code that a terminal has."""
    return message.replace("`", "")


def instant(seconds: float) -> str:
    """A second since 1970 as HTML's `time` has it; scripts show it by the reader's clock."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%MZ")


class _Files(StaticFiles):
    """Scripts and styles, which browsers keep but ask about: they are of this version."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """A file by its address: of a folder that has code as well, scripts and styles alone."""
        return super().lookup_path(path) if Path(path).suffix in SERVED else ("", None)

    def file_response(self, *args: Any, **given: Any) -> Response:
        answer = super().file_response(*args, **given)
        answer.headers["Cache-Control"] = "no-cache"
        return answer


def files() -> BaseRoute:
    """The path of scripts and styles."""
    # evaluations have one script and style everywhere
    packages: list[str | tuple[str, str]] = [("t2v.evaluation", "report")]
    return Mount("/static", _Files(directory=HERE / "static", packages=packages), name="static")


def duration(seconds: float) -> str:
    """Return a span of time in words: `40 s`, `12 min`, `3 h 05 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
