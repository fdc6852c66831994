"""The pages of a review: clips with what curation says of them, kept, dropped and captioned."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from t2v.curation.report.page import duration, number, span, title
from t2v.curation.review.index import Shown
from t2v.curation.review.journal import Outdated
from t2v.curation.review.previews import Kind, Previews, Unshowable
from t2v.curation.review.review import Review, caption_text
from t2v.curation.text.caption import tidy
from t2v.errors import UserError
from t2v.io.addresses import address_of, shown
from t2v.io.manifest import MANIFEST
from t2v.serve.errors import Refused
from t2v.studio.pages import Pages

PER_PAGE = 24
MOST_TOLD = 200  # clips that changed, of one answer
MOST_FIELDS = 2 * PER_PAGE
AT_ONCE = 4  # pictures and films that are waited for by threads
KEPT_FOR = "private, max-age=600"  # seconds, of pictures and films
TYPES: dict[Kind, str] = {"picture": "image/jpeg", "film": "video/mp4"}
FILTERS = ("all", "undecided", "kept", "dropped", "edited")


@dataclass(frozen=True)
class View:
    """The part of a review that a page shows: a filter, an order and a place in it."""

    show: str
    sort: str
    start: int

    @classmethod
    def of(cls, given: dict[str, str]) -> View:
        """Take over what a query or a form says.

        Raises:
            UserError: the place is no number.
        """
        start = given.get("start", "0")
        if not start.isdecimal() or len(start) > 9:
            raise UserError("start: a whole number from 0 is needed. Follow the links of the page.")
        return cls(given.get("show", "all"), given.get("sort", ""), int(start))

    def link(self, **other: str | int) -> str:
        """The query of this part, or of another one."""
        return "?" + urlencode(vars(self) | other)


class Reviews:
    """The reviews of a studio, each opened when it is first looked at.

    Args:
        given: manifests, or folders with one or of media files.

    Raises:
        UserError: there is no such file.
    """

    def __init__(self, given: Sequence[str], pages: Pages) -> None:
        self.places, self.pages = named(given), pages
        pages.environment.filters |= {
            **{"number": number, "duration": duration, "span": span, "title": title},
            **{"tidy": tidy, "caption_text": caption_text},
        }
        self._opened: dict[str, Review] = {}
        self._written: dict[str, int] = {}  # lines of the journal that the last manifest has
        self._folder = tempfile.TemporaryDirectory(prefix="t2v-review-", ignore_cleanup_errors=True)
        self._previews = Previews(Path(self._folder.name))
        self._locks = {name: threading.Lock() for name in self.places}
        self._room = anyio.CapacityLimiter(AT_ONCE)  # others need threads too

    def close(self) -> None:
        """End what decodes, and remove what was decoded."""
        self._previews.close()
        self._folder.cleanup()

    def routes(self) -> list[Route]:
        """All paths."""
        one = "/review/{name}"
        return [
            Route("/review", self.overview, methods=["GET"]),
            Route(one, self.show, methods=["GET"]),
            Route(f"{one}/acts", self.act, methods=["POST"]),
            Route(f"{one}/manifest", self.write, methods=["POST"]),
            Route(f"{one}/clips/{{key}}.jpg", self.picture, methods=["GET"]),
            Route(f"{one}/clips/{{key}}.mp4", self.film, methods=["GET"]),
        ]

    def overview(self, request: Request) -> Response:
        """The page of all reviews; where there is one, the page of that."""
        if len(self.places) == 1:
            return RedirectResponse(f"/review/{next(iter(self.places))}", 303)
        rows = [
            (name, shown(place), self._opened[name].counts() if name in self._opened else None)
            for name, place in self.places.items()
        ]
        return self.pages.page(request, "reviews.html.j2", reviews=rows)

    def show(self, request: Request) -> Response:
        """A page of clips."""
        return self._answered(request, lambda: self._page(request, dict(request.query_params)))

    async def act(self, request: Request) -> Response:
        """Keep, drop, caption or undo; a script is told what changed, others see the page."""
        async with request.form(max_files=0, max_fields=MOST_FIELDS) as form:
            given = {name: str(form[name]) for name in form}
            clips = [str(each) for each in form.getlist("clip")]
        return await run_sync(self._act, request, given, clips)

    async def write(self, request: Request) -> Response:
        """Write the reviewed manifest, then show the page."""
        async with request.form(max_files=0, max_fields=MOST_FIELDS) as form:
            given = {name: str(form[name]) for name in form}

        def written() -> Response:
            written = self._review(request).write()
            self._written[request.path_params["name"]] = written.count
            return RedirectResponse(f"{_address(request)}{View.of(given).link()}#summary", 303)

        return await run_sync(self._answered, request, written)

    async def picture(self, request: Request) -> Response:
        """The first frame of a clip."""
        return await run_sync(self._media, request, "picture", limiter=self._room)

    async def film(self, request: Request) -> Response:
        """A small film of a clip, or a part of its file."""
        return await run_sync(self._media, request, "film", limiter=self._room)

    def _answered(self, request: Request, answer: Callable[[], Response]) -> Response:
        """The answer, or a page that says what is wrong."""
        try:
            return answer()
        except UserError as error:
            status = 409 if isinstance(error, Outdated) else 400
            if "text/html" in request.headers.get("accept", ""):
                message, back = tidy(str(error)), _address(request)
                return self.pages.page(request, "wrong.html.j2", status, wrong=message, back=back)
            raise Refused(status, tidy(str(error)), "invalid_value") from error

    def _review(self, request: Request) -> Review:
        name = request.path_params["name"]
        if name not in self.places:
            raise Refused(404, "There is no review of this name.", "not_found")
        with self._locks[name]:
            if name not in self._opened:
                self._opened[name] = Review(self.places[name])
            return self._opened[name]

    def _page(self, request: Request, given: dict[str, str]) -> Response:
        review, view = self._review(request), View.of(given)
        clips = review.page(view.show, view.sort, view.start, PER_PAGE)
        values = self._values(request, review, view) | {"clips": clips, "scores": review.scores()}
        return self.pages.page(request, "review.html.j2", filters=FILTERS, **values)

    def _values(self, request: Request, review: Review, view: View) -> dict[str, Any]:
        """The values of the parts of a page that a script replaces."""
        return {
            **{"name": request.path_params["name"], "view": view, "counts": review.counts()},
            **{"place": shown(review.data), "strays": review.strays()},
            **{"journal": review.journal, "result": self._result(request, review)},
        }

    def _result(self, request: Request, review: Review) -> dict[str, Any] | None:
        """The manifest that was written, and whether it is up to date; None: there is none."""
        if (written := _changed_at(review.target)) is None:
            return None
        count = self._written.get(request.path_params["name"])
        is_current = written >= (_changed_at(review.manifest) or 0)
        if count is None:  # by an earlier studio
            is_current &= written >= (_changed_at(review.journal.path) or 0)
        else:
            is_current &= count == review.journal.count
        return {"path": shown(review.target), "is_current": is_current}

    def _act(self, request: Request, given: dict[str, str], clips: list[str]) -> Response:
        def acted() -> Response:
            review, view = self._review(request), View.of(given)
            changed = _done(review, given, clips)
            if "text/html" in request.headers.get("accept", ""):
                place = f"#clip-{changed[0].key}" if changed else ""
                return RedirectResponse(f"{_address(request)}{view.link()}{place}", 303)
            values = self._values(request, review, view)
            parts = {
                each.key: self.pages.part("review_clip.html.j2", shown=each, **values)
                for each in changed[:MOST_TOLD]
            }
            summary = self.pages.part("review_summary.html.j2", **values)
            return JSONResponse({"clips": parts, "summary": summary, "said": _said(changed)})

        return self._answered(request, acted)

    def _media(self, request: Request, kind: Kind) -> Response:
        try:
            clip = self._review(request).get(request.path_params["key"])
            path = self._previews.file(clip.came, kind)
        except (UserError, Unshowable) as error:
            raise Refused(404, f"It cannot be shown: {tidy(str(error))}", "no_picture") from error
        return FileResponse(path, media_type=TYPES[kind], headers={"Cache-Control": KEPT_FOR})


def _done(review: Review, given: dict[str, str], clips: list[str]) -> list[Shown]:
    """The clips that an act changed."""
    act, text = given.get("act"), given.get("text")
    if act == "undo":
        count = given.get("count", "")
        return review.undo(int(count) if count.isdecimal() and len(count) < 16 else None)
    if act == "caption" and len(clips) == 1:
        return review.write_captions(clips[0], text or "")
    if act == "keep":
        if text and len(clips) == 1:  # what was typed is kept too, whichever button was pressed
            review.write_captions(clips[0], text)
        return review.decide("keep", clips)
    if act == "drop":
        return review.decide("drop", clips)
    if act == "agree":
        return _agreed(review, clips)
    raise UserError("act: give keep, drop, caption of one clip, agree or undo.")


def _agreed(review: Review, clips: list[str]) -> list[Shown]:
    """Decide on clips as curation did, where nobody has decided yet."""
    left = [each for each in map(review.get, clips) if each.verdict is None]
    changed = []
    if dropped := [each.key for each in left if each.now.dropped]:
        changed += review.decide("drop", dropped)
    if kept := [each.key for each in left if not each.now.dropped]:
        changed += review.decide("keep", kept)
    return changed


def _said(changed: Sequence[Shown]) -> str:
    if len(changed) != 1:
        return f"{len(changed)} clips changed."
    clip = changed[0]
    what = {"keep": "kept", "drop": "dropped", None: "undecided"}[clip.verdict]
    return f"Clip {clip.number:,}: {what}{', caption edited' if clip.is_edited else ''}."


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _address(request: Request) -> str:
    return f"/review/{request.path_params['name']}"


def named(given: Sequence[str]) -> dict[str, str]:
    """Manifests and folders by a name for addresses, that of the folder."""
    found: dict[str, str] = {}
    for place in given:
        path = Path(place)
        if address_of(place) is not None:
            raise UserError(
                f"reviews: {shown(place)} is an address, and decisions are written beside the "
                "manifest. Give a folder of this machine."
            )
        if not path.exists():
            raise UserError(f"reviews: there is no {place}. Give folders of `t2v curate`.")
        whole = path.absolute()
        base = whole.parent.name if whole.name == MANIFEST else whole.stem or whole.name
        name = base = re.sub(r"[^A-Za-z0-9_-]+", "-", base).strip("-") or "clips"
        while name in found:
            name = f"{base}-{sum(each.startswith(base) for each in found) + 1}"
        found[name] = place
    return found
