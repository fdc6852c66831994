"""The page of one video: the film, what it was made of, and what can be made of it."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from t2v.studio.about import rate_of, recipe_of, rows_of, scenes_in
from t2v.studio.finished import Finished
from t2v.studio.gallery import name_of
from t2v.studio.pages import Pages

MOST_SEEDS = 8  # that are tried with one press


def film_of(pages: Pages, finished: Finished) -> list[BaseRoute]:
    """The paths of a video."""
    videos = finished.videos

    def film(request: Request) -> Response:
        job = videos.job(request.path_params["id"])
        shown = finished.shown(job)
        if job.state != "done":
            return pages.page(request, "unfinished.html.j2", video=shown)
        recipe = recipe_of(job, videos.models)
        newer, older = finished.beside(shown["id"])
        return pages.page(
            request,
            "film.html.j2",
            video=shown,
            name=name_of(job),
            fps=rate_of(recipe),
            rows=rows_of(recipe, shown),
            scenes=scenes_in(recipe),
            recipe=json.dumps(recipe, indent=1, ensure_ascii=False),
            newer=newer,
            older=older,
            most_seeds=MOST_SEEDS,
        )

    def recipe(request: Request) -> Response:
        job = finished.job(request.path_params["id"])
        text = json.dumps(recipe_of(job, videos.models), indent=1) + "\n"
        name = name_of(job).removesuffix(job.output.suffix)
        headers = {"Content-Disposition": f'attachment; filename="{name}.json"'}
        return Response(text, media_type="application/json", headers=headers)

    return [
        Route("/videos/{id}", pages.told(film), methods=["GET"]),
        Route("/videos/{id}/recipe", recipe, methods=["GET"]),
    ]
