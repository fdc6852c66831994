"""The pages, and which of them a studio has."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from starlette.routing import BaseRoute, Route

from t2v.config.serve import StudioConfig
from t2v.serve.videos import Videos
from t2v.studio.compare import compare_of
from t2v.studio.evaluations import Evaluations
from t2v.studio.film import film_of
from t2v.studio.finished import Finished
from t2v.studio.gallery import gallery_of
from t2v.studio.login import login_of
from t2v.studio.make import make_of
from t2v.studio.page_films import PageFilms
from t2v.studio.pages import Elsewhere, Pages, files
from t2v.studio.runs import Trainings
from t2v.studio.shelf import Shelf
from t2v.studio.story import story_of
from t2v.studio.votes import Votes


def routes(
    config: StudioConfig, closing: ExitStack, videos: Videos, token: str | None
) -> list[BaseRoute]:
    """All paths of the pages, beside those of the endpoint.

    Args:
        closing: closed when the server has ended; takes what has to end with it.
    """
    tabs = [("/", "Make"), ("/gallery", "Gallery"), ("/story", "Story")]
    if config.reviews:
        tabs.append(("/review", "Review"))
    if config.runs is not None:
        tabs += [("/runs", "Trainings"), ("/evals", "Evaluations")]
    pages, finished = Pages(tabs), Finished(videos)
    return [
        files(),
        login_of(pages, token),
        *make_of(pages, videos, config),
        *gallery_of(pages, finished),
        *film_of(pages, finished),
        *_reviews(config, pages, closing),
        *compare_of(pages, finished),
        *story_of(pages, videos, config),
        *_runs(config, pages),
        Elsewhere(pages),
    ]


def _reviews(config: StudioConfig, pages: Pages, closing: ExitStack) -> list[Route]:
    if not config.reviews:
        return []
    from t2v.studio.review import Reviews  # it reads media: pages to make videos need not wait

    reviews = Reviews(config.reviews, pages)
    closing.callback(reviews.close)
    return reviews.routes()


def _runs(config: StudioConfig, pages: Pages) -> list[BaseRoute]:
    if config.runs is None:
        return []
    shelf, films = Shelf(Path(config.runs)), PageFilms()
    return [
        *Trainings(pages, shelf).routes(),
        *Evaluations(pages, shelf, films).routes(),
        *Votes(pages, shelf, films).routes(),
    ]
