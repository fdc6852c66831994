"""The pages of blind votes: for those who vote, and for the operator who counts and shares."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from t2v.config.serve import is_local
from t2v.evaluation.votes import ANSWERS, PAGE, counted, missing_words
from t2v.serve.errors import Refused
from t2v.studio.ballots import FOLDER, Ballots
from t2v.studio.page_films import PageFilms
from t2v.studio.pages import Pages
from t2v.studio.shelf import Run, Shelf, own_file

VOTER = "t2v_voter"  # cookie by which a browser goes on with its votes
YEAR = 365 * 24 * 3600  # seconds
LONGEST = 2000  # bytes of an answer
_ID = re.compile(r"[0-9a-f]{32}")


class Votes:
    """The answers of those pages.

    Args:
        shelf: where the comparisons lie.
    """

    def __init__(self, pages: Pages, shelf: Shelf, films: PageFilms) -> None:
        self.pages, self.shelf, self.films = pages, shelf, films
        self.ballots = Ballots()

    def routes(self) -> list[BaseRoute]:
        """Their paths. Those of `/vote/` need no token: their word is one, for this vote alone."""
        paths: list[BaseRoute] = [
            Route(
                "/votes/{name:path}/result",
                self.pages.told(self.result),
                methods=["GET"],
            ),
            Route("/votes/{name:path}/share", self.share, methods=["POST"]),
        ]
        for base in ("/vote/{word}", "/votes/{name:path}"):
            paths += [
                Route(f"{base}/films/{{number}}", self.film, methods=["GET"]),
                Route(f"{base}/answers", self.answer, methods=["POST"]),
                Route(base, self.pages.told(self.vote), methods=["GET"]),
            ]
        return paths

    def vote(self, request: Request) -> Response:
        """The pairs, in an order of this voter's own, with what was answered before."""
        try:
            run = self._run(request)
        except Refused as error:
            if "word" not in request.path_params:
                raise
            values: dict[str, Any] = {"tabs": (), "told": error.message}
            return self.pages.page(request, "vote_closed.html.j2", 404, **values)
        ballot, cookie = self.ballots.ballot(run), _cookie(request)
        voter = self.ballots.voter_of(cookie, ballot)
        given, base = self.ballots.given(run, voter, ballot), quote(request.scope["path"])
        pairs = [
            {"pair": str(number), "prompt": ballot["pairs"][number]["prompt"]}
            | {"given": given.get(ballot["pairs"][number]["pair"], {})}
            | {"films": [f"{base}/films/{2 * number + side}" for side in (0, 1)]}
            for number in self.ballots.order(voter, ballot)
        ]
        values = {"ballot": ballot, "pairs": pairs, "answers": ANSWERS}
        values |= {"answers_to": f"{base}/answers", "preload": "metadata"}
        if "word" in request.path_params:
            values["tabs"] = ()  # they would lead to where the word does not
        answer = self.pages.page(request, "vote.html.j2", **values)
        # lax: a link in a letter leads here, and its reader goes on with the votes of before
        answer.set_cookie(VOTER, cookie, max_age=YEAR, httponly=True, samesite="lax")
        return answer

    def film(self, request: Request) -> Response:
        """A film, of which nothing tells whose it is."""
        path = own_file(self._run(request), PAGE)
        return self.films.film(path, request)

    async def answer(self, request: Request) -> Response:
        """Keep an answer."""
        try:
            given = json.loads(await _body(request))
        except (ValueError, RecursionError) as error:
            raise Refused(400, "The body is no JSON.", "invalid_json") from error
        if _ID.fullmatch(request.cookies.get(VOTER, "")) is None:
            message = "This browser keeps no cookies. Allow them for this page and load it again."
            raise Refused(400, message, "no_voter")
        await run_sync(self._keep, request, given)
        return JSONResponse({"object": "vote", "kept": True})

    def _keep(self, request: Request, given: Any) -> None:
        run = self._run(request)
        ballot = self.ballots.ballot(run)
        voter = self.ballots.voter_of(_cookie(request), ballot)
        _written(self.ballots.answer, run, voter, ballot, given)

    def result(self, request: Request) -> Response:
        """The count so far, as `t2v eval votes` gives it, and the link for those who vote."""
        run = self._run(request)
        ballot = self.ballots.ballot(run)
        found, word = self.ballots.counted(run, ballot), self.ballots.word(run)
        host = f"{request.url.scheme}://{request.headers['host']}"
        voters = [
            {"name": name.partition(".")[0][:8], "votes": missing_words(each["votes"], ballot)}
            for name, each in zip(found.names, found.files, strict=True)
        ]
        values: dict[str, Any] = {"run": run, "ballot": ballot}
        values |= {"rows": counted(ballot, found.files)}
        values |= {"voters": voters, "refused": found.refused, "folder": FOLDER}
        values |= {"link": None if word is None else f"{host}/vote/{word}"}
        values["is_local"] = is_local(request.url.hostname or "")
        return self.pages.page(request, "vote_result.html.j2", **values)

    async def share(self, request: Request) -> Response:
        """Make a link that opens the vote, or withdraw it."""
        form = parse_qs((await _body(request)).decode(errors="replace"))
        run = await run_sync(self._run, request)
        wanted = form.get("do", [""])[0]
        if wanted not in ("make", "withdraw"):
            raise Refused(400, "do must be make or withdraw.", "invalid_value", "do")
        change = self.ballots.share if wanted == "make" else self.ballots.withdraw
        await run_sync(_written, change, run)
        return RedirectResponse(f"/votes/{quote(run.name)}/result", 303)

    def _run(self, request: Request) -> Run:
        if "word" in request.path_params:
            return self.ballots.opened(self.shelf.runs("comparison"), request.path_params["word"])
        run = self.shelf.run("comparison", request.path_params["name"])
        if not run.has_ballot:
            raise Refused(404, "This comparison has no blind vote.", "vote_not_found")
        return run


def _written(write: Callable[..., None], *given: Any) -> None:
    """Write something, and tell where the disk refuses it."""
    try:
        write(*given)
    except OSError as error:
        message = f"The votes cannot be written ({error.strerror})."
        raise Refused(503, message, "not_written") from error


def _cookie(request: Request) -> str:
    cookie = request.cookies.get(VOTER, "")
    return cookie if _ID.fullmatch(cookie) else secrets.token_hex(16)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST:
            raise Refused(413, f"An answer has at most {LONGEST:,} bytes.", "request_too_large")
    return bytes(body)
