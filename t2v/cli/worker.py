"""`t2v queue run`, `serve` and `studio` on the command line: workers, and who starts them again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from t2v.cli.commands import collect_garbage
from t2v.cli.deferred import defer
from t2v.config.queue import QueueRunConfig
from t2v.config.serve import ServeConfig, StudioConfig
from t2v.errors import UserError
from t2v.io.addresses import shown
from t2v.queue.folder import Queue
from t2v.queue.store import number

NICE = 5  # of a server's workers: it takes little, and comes first


def run(config: QueueRunConfig) -> None:
    """Make the videos of a queue and print their paths, until it is stopped.

    Raises:
        UserError: the device is not there, or the worker dies again and again.
    """
    queue, began = Queue.make(config.queue), time.time()
    if config.alone:
        _work(queue, config)
    else:
        from t2v.queue.supervisor import supervise

        alone = replace(config, queue=str(queue.folder), alone=True)
        if code := supervise(queue.store, lambda: started(alone)):
            raise SystemExit(code)  # the worker has said why
    if not config.wait and multiprocessing.parent_process() is None:
        failed = [job for job in queue.jobs(["failed"]) if number(job.result, "time") >= began]
        if failed:
            count = f"{len(failed)} job{'s' if len(failed) > 1 else ''} failed"
            raise UserError(f"{count}; `t2v queue list {config.queue}` tells why.")


def serve(config: ServeConfig) -> None:
    """Answer requests for videos and make them, until it is stopped.

    Raises:
        UserError: see `t2v.serve.run.serve`.
    """
    from t2v.serve.run import serve as run_server  # the extra `serve`

    run_server(config, _starts(config), lambda address: print(address, flush=True))


def studio(config: StudioConfig) -> None:
    """Answer requests as `serve`, and those of browsers by pages, until it is stopped.

    Raises:
        UserError: see `t2v.serve.run.serve`.
    """
    import webbrowser

    from t2v.serve.run import serve as run_server  # the extra `serve`
    from t2v.studio.routes import routes

    def tell(address: str) -> None:
        print(address, flush=True)
        if config.open:
            webbrowser.open(address)  # where there is none, the address is there to be read

    with ExitStack() as closing:
        run_server(config, _starts(config), tell, partial(routes, config, closing))


def _starts(config: ServeConfig) -> list[Callable[[], BaseProcess]]:
    """Starts of the workers of a server."""
    folder = str(Path(config.queue).absolute())
    usual = QueueRunConfig(queue=folder, models=config.resident, memory=config.memory, alone=True)
    workers = [replace(usual, device=each) for each in config.devices]
    return [partial(started, each, is_server=True) for each in workers]


def started(config: QueueRunConfig, is_server: bool = False) -> BaseProcess:
    """A worker in a process of its own; it ends with the process that started it.

    Args:
        is_server: that process answers requests: it comes first, and tells what is made.
    """
    context = multiprocessing.get_context("spawn")  # of a fork, threads would be missing
    process = context.Process(target=_alone, args=(config, is_server))
    process.start()
    return process


def _alone(config: QueueRunConfig, is_server: bool) -> None:
    """The life of a worker in a process of its own."""
    from t2v.cli import main

    if is_server:
        os.nice(NICE)
        # nobody may read what the server prints, and a closed pipe would end the worker
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  as long as it lives
    defer()
    given = {each.name: getattr(config, each.name) for each in fields(config)}
    words = [f"{name}={_spelled(value)}" for name, value in given.items()]
    sys.exit(main(["queue", "run", *words]))


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def _work(queue: Queue, config: QueueRunConfig) -> None:
    from t2v.cli.fitted import as_memory_allows
    from t2v.queue.worker import Worker  # torch, and seconds

    collect_garbage()
    worker = Worker(queue, config, as_memory_allows)
    with _stopping(worker.stop):
        for job in worker.work():
            for path in job.result.get("paths", []):
                print(shown(path), flush=True)


@contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM and Ctrl-C end the worker at its next step, and a second Ctrl-C at once."""

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = {each: signal.signal(each, note) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
