"""`t2v queue run` on the command line: a worker, and the process that starts it again."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from t2v.cli.commands import collect_garbage
from t2v.cli.deferred import defer
from t2v.config.queue import QueueRunConfig
from t2v.errors import UserError
from t2v.queue.folder import Queue


def run(config: QueueRunConfig) -> None:
    """Make the videos of a queue and print their paths, until it is stopped.

    Raises:
        UserError: the device is not there, or the worker dies again and again.
    """
    queue = Queue.make(config.queue)
    if config.alone:
        _work(queue, config)
        return
    from t2v.queue.supervisor import supervise

    alone = replace(config, queue=str(Path(config.queue).absolute()), alone=True)
    code = supervise(queue.store, lambda: _started(alone))
    if code:
        raise SystemExit(code)  # the worker has said why


def _started(config: QueueRunConfig) -> BaseProcess:
    context = multiprocessing.get_context("spawn")  # of a fork, threads would be missing
    process = context.Process(target=_alone, args=(config,))
    process.start()
    return process


def _alone(config: QueueRunConfig) -> None:
    """The life of a worker in a process of its own."""
    from t2v.cli import main

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
    failed = count = 0
    with _stopping(worker.stop):
        for job in worker.work():
            count += 1
            failed += job.state == "failed"
            for path in job.result.get("paths", []):
                print(path, flush=True)
    if failed and not config.wait:
        raise UserError(f"{failed} of {count} jobs failed; `t2v queue list` tells why.")


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
