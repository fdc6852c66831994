"""The pages of evaluations and comparisons: tables, and films that play in step."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from jinja2 import UndefinedError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from t2v.errors import UserError
from t2v.evaluation.report.html import tables_of
from t2v.io.text_files import read_json
from t2v.serve.errors import Refused
from t2v.studio.page_films import Films, PageFilms
from t2v.studio.pages import Pages
from t2v.studio.shelf import FILES, Kind, Run, Shelf, own_file

PAGE = "page.html"
MOST_BYTES = 2**28  # of a report
KINDS: tuple[Kind, ...] = ("evaluation", "comparison")


class Evaluations:
    """The answers of those pages.

    Args:
        shelf: where the evaluations lie.
    """

    def __init__(self, pages: Pages, shelf: Shelf, films: PageFilms) -> None:
        self.pages, self.shelf, self.films = pages, shelf, films

    def routes(self) -> list[BaseRoute]:
        """Their paths."""
        return [
            Route("/evals", self.all, methods=["GET"]),
            Route("/evals/{name:path}/films/{number}", self.film, methods=["GET"]),
            Route("/evals/{name:path}", self.pages.told(self.one), methods=["GET"]),
        ]

    def all(self, request: Request) -> Response:
        """All evaluations and comparisons, newest first."""
        runs = self.shelf.runs(*KINDS)
        return self.pages.page(request, "evals.html.j2", runs=runs, folder=self.shelf.folder.name)

    def one(self, request: Request) -> Response:
        """An evaluation or a comparison."""
        run = self._run(request)
        try:
            report = read_json(own_file(run, *FILES[run.kind]), most=MOST_BYTES)
            return self._page(request, run, report)
        except (UserError, *_MISSHAPEN) as error:
            reason = error if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            problem = f"It cannot be shown: {reason}".replace(f"{run.folder}/", "")
            return self.pages.page(request, "eval_problem.html.j2", 409, run=run, problem=problem)

    def film(self, request: Request) -> Response:
        """A film of its page."""
        path = own_file(self._run(request), PAGE)
        return self.films.film(path, request)

    def _run(self, request: Request) -> Run:
        """A folder may hold both; the comparison is the younger idea of it."""
        name = request.path_params["name"]
        try:
            return self.shelf.run("comparison", name)
        except Refused:
            return self.shelf.run("evaluation", name)

    def _page(self, request: Request, run: Run, report: Any) -> Response:
        films = self._films(run)
        suites = dict(zip(report["suites"], films.suites, strict=False))
        empty = {name: () for name in report["suites"] if name not in suites}

        def address(suite: str, place: int, index: int, row: str) -> str:
            found = suites[suite]
            number = found.first + place * len(found.rows) + found.rows.index(row)
            return f"/evals/{quote(run.name)}/films/{number}"

        rows = {name: each.rows for name, each in suites.items()} | empty
        most = {name: each.videos for name, each in suites.items()} | dict.fromkeys(empty, 60)
        values = tables_of(report, rows, address, most)
        values |= {"vote": None, "run": run, "preload": "metadata"}
        return self.pages.page(request, "eval.html.j2", **values)

    def _films(self, run: Run) -> Films:
        try:
            return self.films.films(own_file(run, PAGE))
        except Refused:  # the page was moved away; tables need no films
            return Films((), ())


# what the report of another program, or one that was written by hand, may raise
_MISSHAPEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, UndefinedError)
