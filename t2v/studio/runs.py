"""The pages of trainings: a list, and of each its curves, sheets of samples and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from t2v.errors import UserError
from t2v.io.files import digest
from t2v.serve.errors import Refused
from t2v.studio.asked import whole
from t2v.studio.pages import Pages
from t2v.studio.panels import WINDOWS, Shown, View, chosen, drawn, panels_of, table
from t2v.studio.records import Records
from t2v.studio.shelf import Run, Shelf, own_file
from t2v.studio.trainings import (
    METRICS,
    VALIDATIONS,
    Facts,
    config_of,
    defaults_of,
    facts,
    record_of,
    sheets,
    untrained,
)

MOST_BESIDE = 3  # trainings in the plots of another
LEAST_WIDTH, MOST_WIDTH = 280, 1600  # pixels of a plot
USUAL_WIDTH, USUAL_WINDOW = "560", "3"  # where an address does not ask
MOST_STEP = 10**12 - 1  # that a sheet is of


class Trainings:
    """The answers of those pages.

    Args:
        shelf: where the trainings lie.
    """

    def __init__(self, pages: Pages, shelf: Shelf) -> None:
        self.pages, self.shelf = pages, shelf
        self.records = Records()

    def routes(self) -> list[BaseRoute]:
        """Their paths."""
        return [
            Route("/runs", self.all, methods=["GET"]),
            Route("/runs/{name:path}/sheets/{step}", self.sheet, methods=["GET"]),
            Route("/runs/{name:path}", self.pages.told(self.one), methods=["GET"]),
        ]

    def all(self, request: Request) -> Response:
        """All trainings, newest first; with `part`, what changes of that page."""
        found = [facts(run) for run in self.shelf.runs("training")]
        every = 3 if any(each.state == "running" for each in found) else 15
        values: dict[str, Any] = {
            "trainings": found,
            "every": every,
            "folder": self.shelf.folder.name,
        }
        if "part" not in request.query_params:
            return self.pages.page(request, "runs.html.j2", **values)
        tag = _hashed(found)
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return _tagged(self.pages.page(request, "runs_part.html.j2", **values), tag)

    def one(self, request: Request) -> Response:
        """A training beside others; with `part`, what changes of that page."""
        run = self.shelf.run("training", request.path_params["name"])
        query = request.query_params
        beside = self._beside(run, query)
        shown = self._shown([run, *beside])
        view = view_of(query)
        told = facts(run)
        tag = _tag(told, [run, *beside], query)
        if "part" in query and request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        values: dict[str, Any] = {
            "facts": told,
            "panels": drawn(shown, view),
            "names": panels_of(shown),
            "chosen": chosen(shown, view),
            "table": table(shown, view),
            "sheets": [{"run": each, "steps": sheets(each)} for each in (run, *beside)],
            "every": 2 if told.state == "running" else 15,
        }
        if "part" in query:
            return _tagged(self.pages.page(request, "run_part.html.j2", **values), tag)
        others = [each.name for each in self.shelf.runs("training") if each != run]
        values |= {"others": others, "beside": [each.name for each in beside], "view": view}
        here = {run.name, *values["beside"]}
        values["gone"] = [name for name in query.getlist("with") if name and name not in here]
        values |= {"windows": WINDOWS, "settings": _settings(run, beside)}
        return self.pages.page(request, "run.html.j2", **values)

    def sheet(self, request: Request) -> Response:
        """The sheet of samples of a step."""
        run = self.shelf.run("training", request.path_params["name"])
        step = whole("step", request.path_params["step"], 0, MOST_STEP)
        path = own_file(run, "sheets", f"{step:06d}.png")
        return FileResponse(path, media_type="image/png", headers={"Cache-Control": "no-cache"})

    def _beside(self, run: Run, query: QueryParams) -> list[Run]:
        """The trainings that stand beside one, without those that are gone."""
        names = [
            name for name in dict.fromkeys(query.getlist("with")) if name not in ("", run.name)
        ]
        if len(names) > MOST_BESIDE:
            message = f"At most {MOST_BESIDE} trainings stand beside another."
            raise Refused(400, message, "invalid_value", "with")
        known = {each.name: each for each in self.shelf.runs("training")}
        return [known[name] for name in names if name in known]

    def _shown(self, runs: Sequence[Run]) -> list[Shown]:
        try:
            records = [record_of(run, self.records) for run in runs]
        except OSError as error:
            raise Refused(409, "The metrics cannot be read now; try again.", "busy") from error
        names = [run.name if len(runs) > 1 else "" for run in runs]
        return [
            Shown(name, record, untrained(run))
            for name, record, run in zip(names, records, runs, strict=True)
        ]


def _tag(told: Facts, runs: Sequence[Run], query: QueryParams) -> str:
    """A tag of what a part of a page is drawn from, found without drawing it."""
    files = [(run.name, _changes(run, METRICS), _changes(run, VALIDATIONS)) for run in runs]
    return _hashed(told, files, [sheets(run) for run in runs], query.multi_items())


def _changes(run: Run, name: str) -> tuple[int, int]:
    try:
        about = own_file(run, name).stat()
    except (Refused, OSError):
        return 0, 0
    return about.st_mtime_ns, about.st_size


def _hashed(*parts: object) -> str:
    return f'"{digest(*parts)}"'


def _tagged(answer: Response, tag: str) -> Response:
    answer.headers["ETag"] = tag
    return answer


def view_of(query: QueryParams) -> View:
    """The way to look at the figures that an address asks for.

    Raises:
        Refused: a value is none of those that are allowed.
    """
    across, scale = query.get("x", "steps"), query.get("scale", "auto")
    if across not in ("steps", "hours"):
        raise Refused(400, "x must be steps or hours.", "invalid_value", "x")
    if scale not in ("auto", "log", "linear"):
        raise Refused(400, "scale must be auto, log or linear.", "invalid_value", "scale")
    smooth = whole("smooth", query.get("smooth", USUAL_WINDOW), 0, len(WINDOWS) - 1)
    width = whole("width", query.get("width", USUAL_WIDTH), LEAST_WIDTH, MOST_WIDTH)
    panels = tuple(query.getlist("show"))
    return View(panels, across == "hours", scale, WINDOWS[smooth], width)


def _settings(run: Run, beside: Sequence[Run]) -> dict[str, Any]:
    """The settings of a training, beside those of another, or the defaults of its command."""
    try:
        own = config_of(run)
        other = config_of(beside[0]) if beside else defaults_of(run)
    except UserError as error:
        return {"problem": str(error), "rows": [], "other": ""}
    rows = []
    # a default of after the training says nothing about it
    for name in dict.fromkeys((*own, *(other if beside else ()))):
        mine, theirs = _spelled(own, name), _spelled(other, name)
        rows.append({"name": name, "own": mine, "other": theirs, "differs": mine != theirs})
    rows.sort(key=lambda row: not row["differs"])
    heading = beside[0].name if beside else "default" if other else ""
    return {"problem": "", "rows": rows, "other": heading}


def _spelled(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return ""
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
