"""The supervisor of a worker: starts it again when it dies, and passes on what stops it."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

from t2v.errors import UserError
from t2v.queue.claims import mark_killed
from t2v.queue.store import Store

logger = logging.getLogger(__name__)

QUICK, MOST_QUICK = 10.0, 3  # seconds in which a worker dies at once, and how often it may
PAUSE = 1.0  # seconds before a worker is started again


def supervise(store: Store, start: Callable[[], BaseProcess]) -> int:
    """Keep a worker at work until it ends by itself or is stopped; returns its exit code.

    A job at which a worker was killed is marked, so that it fails where that happens twice.

    Args:
        start: starts a worker.

    Raises:
        UserError: it dies again and again without a job.
    """
    quick = 0
    while True:
        began, process = time.monotonic(), start()
        with _passed_on(process) as stopped:
            process.join()
        code = process.exitcode or 0
        if code >= 0 or stopped:
            return max(code, 0)
        logger.warning("the worker died of signal %d and is started again", -code)
        had_job = mark_killed(store, process.pid or 0, -code)
        quick = quick + 1 if not had_job and time.monotonic() - began < QUICK else 0
        if quick == MOST_QUICK:
            raise UserError(
                f"{store.folder}: the worker died {quick} times of signal {-code} as soon as it "
                "was started. See what the system says of it (`dmesg`)."
            )
        time.sleep(PAUSE)


@contextmanager
def _passed_on(process: BaseProcess) -> Iterator[list[int]]:
    """Pass SIGTERM and Ctrl-C on to a worker, which ends at its next step; collects what came."""
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        process.terminate()

    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
