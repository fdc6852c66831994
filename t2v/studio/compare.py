"""The page on which two to four videos play in step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from t2v.serve.errors import Refused
from t2v.studio.about import rate_of, recipe_of, rows_of
from t2v.studio.finished import Finished
from t2v.studio.gallery import ids_of
from t2v.studio.pages import Pages

FEWEST, MOST = 2, 4  # videos side by side


@dataclass(frozen=True, kw_only=True)
class Row:
    """A setting of all videos, in words; empty where one has it as usual."""

    name: str
    values: Sequence[str]

    @property
    def differs(self) -> bool:
        """True where not all are the same."""
        return len(set(self.values)) > 1


def compared(tables: Sequence[Mapping[str, str]]) -> list[Row]:
    """The rows of several tables, those that differ first, else in their order."""
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [Row(name=name, values=[table.get(name, "") for table in tables]) for name in names]
    return sorted(rows, key=lambda row: not row.differs)


def compare_of(pages: Pages, finished: Finished) -> list[BaseRoute]:
    """The path of that page."""

    def compare(request: Request) -> Response:
        ids = ids_of(request)
        if not FEWEST <= len(ids) <= MOST:
            raise Refused(
                400,
                f"{len(ids)} video{'' if len(ids) == 1 else 's'}: {FEWEST} to {MOST} are compared. "
                "Select them in the gallery.",
                "invalid_value",
                "ids",
            )
        films, tables = [], []
        for letter, id in zip(ascii_uppercase, ids, strict=False):
            job = finished.job(id)
            shown = finished.shown(job)
            if not shown["is_here"]:
                raise Refused(
                    400, "The file of one of these videos is not here.", "video_not_ready", "ids"
                )
            recipe = recipe_of(job, finished.videos.models)
            films.append({**shown, "letter": letter, "fps": rate_of(recipe)})
            tables.append({"Prompt": shown["prompt"], **rows_of(recipe, shown)})
        can_wipe = len(films) == 2 and len({film["size"] for film in films}) == 1
        rows = compared(tables)
        return pages.page(request, "compare.html.j2", films=films, rows=rows, can_wipe=can_wipe)

    return [Route("/compare", pages.told(compare), methods=["GET"])]
