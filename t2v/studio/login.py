"""The page where people give the server's token once, for a cookie."""

from __future__ import annotations

import hmac
import re
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from t2v.serve.errors import Refused
from t2v.serve.session import LOGIN, cookie_of, session_of
from t2v.studio.pages import Pages

LONGEST = 10_000  # bytes of the form
OWN = re.compile(r"/([\w.~%?&=+:,-][\w.~%?&=+:,/-]*)?", re.ASCII)  # an address of this server


def login_of(pages: Pages, token: str | None) -> Route:
    """The path of that page; without a token it leads to the first page."""

    async def login(request: Request) -> Response:
        if token is None:
            return RedirectResponse("/", 303)
        if request.method == "GET":
            there = own(request.query_params.get("next", "/"))
            return pages.page(request, "login.html.j2", wrong="", there=there)
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > LONGEST:
                raise Refused(413, "The form is too long.", "request_too_large")
        form = parse_qs(bytes(body).decode(errors="replace"))
        given, there = form.get("token", [""])[0].strip(), own(form.get("next", ["/"])[0])
        if not hmac.compare_digest(given.encode(), token.encode()):
            wrong = "This is not the token of this server."
            return pages.page(request, "login.html.j2", 401, wrong=wrong, there=there)
        answer = RedirectResponse(there, 303)
        cookie = cookie_of(request.scope)
        answer.set_cookie(cookie, session_of(token), httponly=True, samesite="strict")
        return answer

    return Route(LOGIN, login, methods=["GET", "POST"])


def own(address: str) -> str:
    """The address that was asked for, if it is one of this server, else that of the first page."""
    return address if OWN.fullmatch(address) else "/"
