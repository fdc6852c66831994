"""The drivers of addresses: what they are asked, for how long, and one message for their errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

from t2v.errors import UserError
from t2v.io.addresses import READ_ONLY, SCHEMES

LIMIT = 120.0  # seconds without an answer, or a byte


class Missing(UserError):
    """Nothing lies at an address."""


def store(address: str) -> tuple[Any, str]:
    """The file system of an address, which keeps its connections, and the name of the file there.

    Raises:
        UserError: the driver is not installed, or refuses the address.
    """
    scheme = address.partition(":")[0]
    options: dict[str, Any] = {}
    try:
        if scheme in READ_ONLY:
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=LIMIT, sock_read=LIMIT)
            options["client_kwargs"] = {"timeout": timeout}
        from fsspec.core import url_to_fs

        found: tuple[Any, str] = asked(address, "read", url_to_fs, address, **options)
    except ImportError as error:
        package = SCHEMES[scheme]
        raise UserError(
            f"{address}: {scheme}:// needs {package}, which is not installed: "
            f"pip install {package}."
        ) from error
    return found


def asked(
    address: str, doing: str, call: Callable[..., Any], *args: Any, counts: bool = False, **how: Any
) -> Any:
    """The answer of a driver, which is given up when it is silent for `LIMIT` seconds.

    Args:
        doing: what is done with the address, in words: "read".
        counts: the call takes a callback, which tells that bytes come.

    Raises:
        Missing: nothing lies there.
        UserError: any other error; drivers raise those of their own libraries.
        ImportError: a package is not installed.
    """
    heard, done, outcome = [time.monotonic()], Event(), list[Any]()
    if counts:
        from fsspec.callbacks import Callback

        def hear(*told: object, **more: object) -> None:
            heard[0] = time.monotonic()

        how["callback"] = Callback(hooks={"hear": hear})

    def ask() -> None:
        try:
            outcome[:] = [call(*args, **how), None]
        except Exception as error:
            outcome[:] = [None, error]
        done.set()

    Thread(target=ask, daemon=True).start()  # one that hangs is left behind
    while not done.wait(min(LIMIT, 1)):
        if time.monotonic() - heard[0] > LIMIT:
            raise UserError(
                f"{address}: could not be {doing}: no answer for {LIMIT:g} s. Check the network, "
                "then run the same command again."
            )
    answer, error = outcome
    if isinstance(error, ImportError | UserError):
        raise error
    if error is not None:
        raise _told_by(error, address, doing) from error
    return answer


def _told_by(error: Exception, address: str, doing: str) -> UserError:
    """One message for what a driver raised, by the causes that it names."""
    causes: list[BaseException] = [error]
    while (below := causes[-1].__cause__ or causes[-1].__context__) and below not in causes:
        causes.append(below)
    codes = set(map(_code, causes))
    reason = " ".join(str(causes[-1]).split())[:300] or type(causes[-1]).__name__
    if codes & {401, 403} or any(isinstance(each, PermissionError) for each in causes):
        return UserError(
            f"{address}: no permission: it could not be {doing} ({reason}). Check the credentials "
            f"that {SCHEMES[address.partition(':')[0]]} is given."
        )
    others = [each for each in causes if not isinstance(each, FileNotFoundError)]
    if not others or 404 in codes:
        if doing == "written":
            return UserError(f"{address}: could not be written: there is no such bucket. Make it.")
        return Missing(f"{address}: there is no such file or folder. Check the address.")
    return UserError(
        f"{address}: could not be {doing} ({type(others[-1]).__name__}: {reason}). Check the "
        "address and the network, then run the same command again."
    )


def _code(error: BaseException) -> object:
    """The number of HTTP that an error tells, by whichever name its library has for it."""
    told = getattr(getattr(error, "response", None), "status_code", None)
    return told or getattr(error, "status", None) or getattr(error, "code", None)
