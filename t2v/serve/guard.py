"""Checks of every request: host, origin, token, the length of its body, and security headers."""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import quote

from starlette.datastructures import URL, Headers, MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t2v.serve.errors import Refused, answer
from t2v.serve.metrics import Metrics
from t2v.serve.session import LOGIN, cookie_of, session_of

# answered without a token: they tell nothing, or have a secret of their own, that of a vote
VOTE = r"/vote/[\w-]{43}(/films/\d{1,6}|/answers)?"
OPEN = re.compile(rf"/health|{LOGIN}|/static/[\w.-]+|{VOTE}")
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:\d{1,5})?")


class Guard:
    """Answers requests that may not pass, and lets the others through to an application.

    Args:
        token: that each must bring; None: none.
        names: of hosts beside localhost and IP addresses, which no other site can take for itself.
        most: bytes of a body.
        has_pages: a browser without the token is led to where it can be given.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        names: Collection[str],
        most: int,
        metrics: Metrics,
        has_pages: bool = False,
    ) -> None:
        self.app, self.token, self.most, self.metrics = app, token, most, metrics
        self.has_pages = has_pages
        self.names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, headers = time.perf_counter(), Headers(scope=scope)

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    own.setdefault(name, value)
                name = getattr(scope.get("endpoint"), "__name__", "none")
                self.metrics.note(name, message["status"], time.perf_counter() - began)
            await send(message)

        try:
            self._check_site(headers)
            if self._is_page(scope, headers) and not self._is_known(scope, headers):
                asked = URL(scope=scope)
                there = quote(asked.path + (f"?{asked.query}" if asked.query else ""))
                login = RedirectResponse(f"{LOGIN}?next={there}", 303)
                await login(scope, receive, answered)
                return
            if not OPEN.fullmatch(scope["path"]) and not self._is_known(scope, headers):
                raise _unknown(headers)
            await self.app(scope, self._counted(headers, receive), answered)
        except Refused as refused:
            await answer(refused)(scope, receive, answered)
        except ClientDisconnect:
            return

    def _check_site(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._is_own(host):
            raise Refused(
                403,
                "This host name is not one of this server; its operator can add it to `names`.",
                "host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            raise Refused(403, "Requests of other sites are refused.", "origin_not_allowed")
        apart = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if origin is None and apart and headers.get("sec-fetch-mode") != "navigate":
            raise Refused(403, "Requests of other sites are refused.", "origin_not_allowed")

    def _is_own(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match["name"].lower().strip("[]")
        try:
            return bool(ip_address(name)) or True  # a name that is no name cannot be rebound
        except ValueError:
            return name in self.names

    def _is_page(self, scope: Scope, headers: Headers) -> bool:
        """True where a browser asks for a page, and would show a refusal as it is."""
        wants_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        return self.has_pages and wants_page and not OPEN.fullmatch(scope["path"])

    def _is_known(self, scope: Scope, headers: Headers) -> bool:
        """True for who brings the token, or the cookie that was given for it."""
        if self.token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return hmac.compare_digest(given.strip().encode(), self.token.encode())
        cookie = HTTPConnection(scope).cookies.get(cookie_of(scope), "") if self.has_pages else ""
        return hmac.compare_digest(cookie.encode(), session_of(self.token).encode())

    def _counted(self, headers: Headers, receive: Receive) -> Receive:
        """The pieces of a body, as long as they are not too many."""
        told = headers.get("content-length", "0")
        if not told.isdecimal() or len(told) > 15 or int(told) > self.most:
            raise self._too_long()
        count = 0

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self.most:
                raise self._too_long()
            return message

        return counted

    def _too_long(self) -> Refused:
        return Refused(
            413,
            f"The request is longer than the {self.most:,} bytes that are taken.",
            "request_too_large",
            headers={"Connection": "close"},
        )


def _unknown(headers: Headers) -> Refused:
    given = "authorization" in headers
    what = "This token is not the server's." if given else "This server needs a token."
    return Refused(
        401,
        f"{what} Send it as `Authorization: Bearer TOKEN`, the api_key of OpenAI's client.",
        "invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
