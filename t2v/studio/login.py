"""The page where people give the server's token once, for a cookie."""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from t2v.serve.errors import Refused
from t2v.serve.session import COOKIE, LOGIN, session_of
from t2v.studio.pages import Pages

LONGEST = 1000  # bytes of the form


def login_of(pages: Pages, token: str | None) -> Route:
    """The path of that page; without a token it leads to the first page."""

    async def login(request: Request) -> Response:
        if token is None:
            return RedirectResponse("/", 303)
        if request.method == "GET":
            return pages.page(request, "login.html.j2", wrong="")
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > LONGEST:
                raise Refused(413, "The form is too long.", "request_too_large")
        given = parse_qs(bytes(body).decode(errors="replace")).get("token", [""])[0].strip()
        if not hmac.compare_digest(given.encode(), token.encode()):
            wrong = "This is not the token of this server."
            return pages.page(request, "login.html.j2", 401, wrong=wrong)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, session_of(token), httponly=True, samesite="strict")
        return answer

    return Route(LOGIN, login, methods=["GET", "POST"])
