"""Refusals, in the shape that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from t2v.errors import UserError
from t2v.queue.disk import is_full

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
LONGEST = 1000  # characters of a message


class Refused(Exception):
    """A request that is not answered with what it asks for.

    Args:
        status: of HTTP.
        message: one sentence that says what was given, what is allowed, or what to do.
        code: a word for programs.
        param: the field of the request that is at fault.
        headers: of the answer, such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})


NO_SPACE = Refused(507, "No space is left on the server's disk; try again later.", "storage_full")


def answer(refused: Refused) -> JSONResponse:
    """The answer of a refusal: `{"error": {"message", "type", "param", "code"}}`."""
    usual = "server_error" if refused.status >= 500 else "invalid_request_error"
    error = {
        "message": refused.message[:LONGEST],
        "type": KINDS.get(refused.status, usual),
        "param": refused.param,
        "code": refused.code,
    }
    return JSONResponse({"error": error}, refused.status, refused.headers)


async def on_refused(request: Request, error: Any) -> JSONResponse:
    """The answer to a refusal that an endpoint raised."""
    return answer(error)


async def on_mistake(request: Request, error: Any) -> JSONResponse:
    """The answer where the queue itself refuses something."""
    assert isinstance(error, UserError)
    if is_full(error):
        return answer(NO_SPACE)
    return answer(Refused(409, "The queue is busy or cannot be changed now; try again.", "busy"))


async def on_disk(request: Request, error: Any) -> JSONResponse:
    """The answer where the disk is full; another fault of it is a bug, or the operator's to mend.

    Raises:
        OSError: the disk is not full.
    """
    if is_full(error):
        return answer(NO_SPACE)
    raise error


async def on_http(request: Request, error: Any) -> JSONResponse:
    """The answer where no route fits, or a body is no form."""
    assert isinstance(error, HTTPException)
    message = {
        404: f"There is no {request.method} {request.url.path[:100]} here.",
        405: f"{request.url.path[:100]} does not take {request.method}.",
    }.get(error.status_code, f"The request cannot be read: {error.detail}")
    return answer(Refused(error.status_code, message, headers=error.headers))


async def on_bug(request: Request, error: Exception) -> JSONResponse:
    """The answer to a bug, which the server's log tells."""
    return answer(Refused(500, "The server met a bug; its log says more.", "server_error"))
