"""The workers that a server keeps: one a device, started again when they die."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess

from t2v.queue.claims import mark_killed
from t2v.queue.store import Store
from t2v.serve.metrics import Metrics

logger = logging.getLogger(__name__)

SHORTEST, LONGEST = 1.0, 60.0  # seconds before a worker is started again, which double each time
QUICK = 10.0  # seconds of life, below which the next pause is longer
LAST = 60.0  # seconds that workers get to finish a step when the server ends


class Workers:
    """Processes at work on a queue, each watched by a thread.

    Args:
        starts: start one worker each.
    """

    def __init__(
        self, store: Store, starts: Sequence[Callable[[], BaseProcess]], metrics: Metrics
    ) -> None:
        self.store, self.metrics = store, metrics
        self._ending = threading.Event()
        self._processes: dict[int, BaseProcess] = {}
        self._threads = [
            threading.Thread(target=self._keep, args=each, daemon=True)
            for each in enumerate(starts)
        ]

    def start(self) -> None:
        """Start all of them."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Have each finish its step and keep its latents, and wait for that."""
        self._ending.set()
        end = time.monotonic() + LAST
        for process in list(self._processes.values()):
            if process.is_alive():
                process.terminate()
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        for process in list(self._processes.values()):
            if process.is_alive():
                logger.warning("a worker did not end within %g s and is killed", LAST)
                process.kill()

    def _keep(self, number: int, start: Callable[[], BaseProcess]) -> None:
        pause = SHORTEST
        while not self._ending.is_set():
            began, process = time.monotonic(), start()
            self._processes[number] = process
            self.metrics.workers += 1
            if self._ending.is_set():
                process.terminate()  # it was started while the others were stopped
            process.join()
            self.metrics.workers -= 1
            if self._ending.is_set():
                return
            code = process.exitcode or 0
            logger.warning("a worker ended (%d) and is started again", code)
            if code < 0:
                mark_killed(self.store, process.pid or 0, -code)
            lived = time.monotonic() - began
            pause = SHORTEST if lived > QUICK else min(LONGEST, 2 * pause)
            self.metrics.restarts.inc()
            self._ending.wait(pause)
