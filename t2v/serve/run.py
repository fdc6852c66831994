"""A server from start to end: its token, socket, workers, and the signals that stop it."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

import anyio
import uvicorn
from anyio.to_thread import run_sync
from starlette.routing import BaseRoute

from t2v.config.serve import ServeConfig
from t2v.errors import UserError
from t2v.io.text_files import read_text
from t2v.queue.folder import Queue
from t2v.serve.app import application
from t2v.serve.connection import connection_of
from t2v.serve.facts import learn
from t2v.serve.metrics import Metrics
from t2v.serve.offer import Offer
from t2v.serve.videos import Videos
from t2v.serve.workers import Workers

logger = logging.getLogger(__name__)

TOKEN = "T2V_TOKEN"  # of the environment
SHORTEST_TOKEN = 16  # characters
LAST = 5  # seconds that requests get to end when the server does
TICK = 1.0  # seconds between two looks at what was deleted


def serve(
    config: ServeConfig,
    starts: Sequence[Callable[[], BaseProcess]],
    tell: Callable[[str], None],
    pages: Callable[[Videos, str | None], Sequence[BaseRoute]] = lambda videos, token: (),
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; jobs stay in the queue.

    Args:
        starts: start one worker each.
        tell: shows the address.
        pages: gives paths for browsers, beside those of the endpoint, from videos and token.

    Raises:
        UserError: the address cannot be had, or needs a token; a model is not there.
    """
    token = token_of(config)
    offer = Offer.read(config.models, config.loras)
    queue = Queue.make(config.queue, config.max_queued)
    videos, metrics = Videos(queue, offer), Metrics(queue)
    workers = Workers(queue.store, starts, metrics)
    taken = _bound(config)

    def is_ending() -> bool:
        return server.should_exit

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        workers.start()
        learn(offer.models)
        async with anyio.create_task_group() as group:
            group.start_soon(_let_go, videos)
            yield
            group.cancel_scope.cancel()
        await run_sync(workers.stop)

    server: uvicorn.Server = uvicorn.Server(
        uvicorn.Config(
            application(videos, config, token, metrics, is_ending, lifespan, pages(videos, token)),
            http=connection_of(config.patience, config.max_connections),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=LAST,
        )
    )
    name = f"[{config.host}]" if ":" in config.host else config.host
    tell(f"http://{name}:{taken.getsockname()[1]}")
    # uvicorn raises the signals that ended it once more
    before = {each: signal.signal(each, _pass) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[taken])
    finally:
        taken.close()
        for each, handler in before.items():
            signal.signal(each, handler)


def token_of(config: ServeConfig) -> str | None:
    """The token that requests have to bring, of a file or the environment; None: none.

    Raises:
        UserError: it is too short, or missing where other machines reach the server.
    """
    if config.token_file is not None:
        _check_private(Path(config.token_file))
        token, where = read_text(Path(config.token_file)).strip(), config.token_file
    else:
        token, where = os.environ.get(TOKEN, "").strip(), TOKEN
    if config.token_file is not None or token:
        if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
            raise UserError(
                f"{where}: a token has at least {SHORTEST_TOKEN} characters of ASCII in one line. "
                'Make one: python -c "import secrets; print(secrets.token_urlsafe())"'
            )
        return token
    if not config.is_local:
        raise UserError(
            f"host={config.host}: other machines reach it, so it needs a token. Put one into the "
            f"environment as {TOKEN}, or into a file and give token_file=FILE."
        )
    return None


def _check_private(path: Path) -> None:
    """Raise `UserError` where other users of this machine can read or change a file of this one."""
    if os.name != "posix" or not path.is_file():
        return
    about = path.stat()
    if about.st_mode & 0o077:
        raise UserError(
            f"token_file={path}: other users can read or change it (mode {about.st_mode & 0o777:o})"
            f". Make it yours alone: chmod 600 {path}"
        )


def _bound(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # asyncio sends small answers at once only on sockets that name TCP; else they wait for 40 ms
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((config.host, config.port))
        taken.listen()  # whoever is told the address may connect, and is answered in a moment
    except OSError as error:
        taken.close()
        raise UserError(
            f"host={config.host} port={config.port}: cannot be listened on ({error.strerror}). "
            "Give another port, or port=0 for any that is free."
        ) from error
    return taken


async def _let_go(videos: Videos) -> None:
    while True:
        await anyio.sleep(TICK)
        if videos.leaving:
            try:
                await run_sync(videos.let_go)
            except (UserError, OSError):
                logger.exception("deleted videos cannot be removed now")


def _pass(number: int, frame: FrameType | None) -> None:
    """Let the server end by itself."""
