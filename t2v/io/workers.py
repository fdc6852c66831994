"""Maps a function over items in processes that may crash, hang or run out of memory."""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import multiprocessing
import os
import pickle
import resource
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar

from t2v.errors import UserError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
GIB = 2**30
TRIES = 3  # of an item whose worker died: someone may have killed it for no fault of the item
AHEAD = 2  # items for each worker, at most, that wait for an earlier one


@dataclass(frozen=True)
class Failure:
    """The outcome of an item that gave no result, with the `reason` in words.

    Args:
        trace: of an error, the lines that Python shows of it.
    """

    kind: Literal["error", "crash", "time", "memory"]
    reason: str
    trace: str = ""


@dataclass(frozen=True)
class Limits:
    """The time and memory that an item may take.

    Args:
        seconds: of time.
        memory_gb: of address space beyond what the process starts with; None: as it likes.
    """

    seconds: float = math.inf
    memory_gb: float | None = None


def work(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    seconds: float = 600.0,
    memory_gb: float = 4.0,
    in_order: bool = False,
) -> Iterator[tuple[int, Result | Failure]]:
    """The result of each item with the item's number, from processes of this machine; see `Pool`.

    Args:
        function: a function of a module, or a `functools.partial` of one.
        items: anything that pickles.
        workers: how many processes; each imports only what `function` needs.
        seconds: how long an item may take.
        memory_gb: how much address space it may take beyond what the process starts with.
        in_order: give results in the order of the items.

    Raises:
        UserError: `function` raised it: what the user has to mend would fail every item.
    """
    with Pool(Processes(function, Limits(seconds, memory_gb)), workers) as pool:
        yield from pool.results(items, in_order=in_order)


class Gone(Exception):
    """A worker that gives no result any more, and why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class Worker(Protocol):
    """One that takes an item at a time; its function lives as long as it does.

    When it has started there is something to be taken, before anything is given: None.
    """

    deadline: float  # on the clock of `time.monotonic`, of the item that is with it

    def give(self, item: Any) -> None:
        """Hand an item over."""

    def take(self, is_late: bool) -> Any:
        """The result.

        Raises:
            Gone: the worker has died, or is late and must be stopped.
        """

    def stop(self) -> None:
        """End it, whatever it does."""


class Crew(Protocol):
    """The source of workers."""

    def start(self) -> Worker:
        """A new worker."""

    def ready(self, workers: Collection[Any], seconds: float) -> Collection[Any]:
        """Those of some workers that have something to be taken, waited for so long at most."""


@dataclass(frozen=True, eq=False)
class _Task:
    number: int
    item: Any
    tries: int = 1


class Pool:
    """Workers that live from map to map, with what their function holds.

    One item is with a worker at a time, and items are drawn only when a worker is free, so both
    ends may stream. A worker that dies is replaced and its item given again, `TRIES` times in all;
    one that takes too long or too much memory is not.

    Args:
        crew: where workers come from.
        workers: how many, at most.
    """

    def __init__(self, crew: Crew, workers: int) -> None:
        self.crew, self.most = crew, workers
        self._idle: list[Worker] = []
        self._busy: dict[Worker, _Task | None] = {}  # None: it is starting
        self._again: deque[_Task] = deque()
        self._stillborn = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in (*self._idle, *self._busy):
            worker.stop()
        self._idle, self._busy = [], {}

    def results(
        self, items: Iterable[Any], *, count: int | None = None, in_order: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """Yield the number and the result, or Failure, of each item, as they come.

        Args:
            count: how many items there are, where that is known: no more workers are started.
            in_order: in the order of the items; later ones wait in memory, and as many as that may
                be are drawn.

        Raises:
            UserError: the function raised it, or no worker starts.
        """
        wanted = self.most if count is None else min(self.most, count)
        while len(self._idle) + len(self._busy) < wanted:
            self._add()
        rest, waiting, turn, is_over = enumerate(items), dict[int, Any](), 0, False
        try:
            while True:
                while self._idle and self._again:
                    self._give(self._idle.pop(), self._again.popleft())
                while self._idle and len(waiting) + self._given < AHEAD * self.most:
                    if is_over := (task := _next(rest)) is None:
                        break
                    self._give(self._idle.pop(), task)
                if not self._given and (is_over or not self._busy):
                    return
                for worker, is_late in self._ready():
                    number, result = self._outcome(worker, is_late) or (-1, None)
                    if in_order and number >= 0:
                        waiting[number] = result
                    elif number >= 0:
                        yield number, result
                    while turn in waiting:
                        yield turn, waiting.pop(turn)
                        turn += 1
        finally:
            self._again.clear()
            for each in [worker for worker, task in self._busy.items() if task is not None]:
                del self._busy[each]  # nobody will ask for its result
                each.stop()

    @property
    def _given(self) -> int:
        """The items that were drawn and have no result yet."""
        return len(self._again) + sum(task is not None for task in self._busy.values())

    def _add(self) -> None:
        self._busy[self.crew.start()] = None

    def _give(self, worker: Worker, task: _Task) -> None:
        worker.give(task.item)
        self._busy[worker] = task

    def _ready(self) -> list[tuple[Worker, bool]]:
        """The workers that have something to be taken, and those that are late (true)."""
        left = min(worker.deadline for worker in self._busy) - time.monotonic()
        ready = set(self.crew.ready(list(self._busy), max(0.0, left)))
        now = time.monotonic()
        late = [each for each in self._busy if each not in ready and now > each.deadline]
        return [*((each, False) for each in ready), *((each, True) for each in late)]

    def _outcome(self, worker: Worker, is_late: bool) -> tuple[int, Any] | None:
        """The number and the result of what was with a worker; None: it is with another now."""
        task, result = self._busy.pop(worker), None
        try:
            result = worker.take(is_late)
            self._idle.append(worker)
        except Gone as gone:
            result = gone.failure
            worker.stop()
            self._add()
            if task is not None and result.kind == "crash" and task.tries < TRIES:
                logger.warning("%s; its item is given to another one", result.reason)
                self._again.append(_Task(task.number, task.item, task.tries + 1))
                return None
        if isinstance(result, UserError):
            raise result
        if task is None:
            self._check_start(result)
            return None
        return task.number, result

    def _check_start(self, result: Any) -> None:
        if not isinstance(result, Failure):
            self._stillborn = 0
            return
        self._stillborn += 1
        if self._stillborn == TRIES:
            raise UserError(
                f"{TRIES} workers died before their first item, the last one thus: "
                f"{result.reason}. See that machines have the memory for it, and start again."
            )


def _next(rest: Iterator[tuple[int, Any]]) -> _Task | None:
    following = next(rest, None)
    return None if following is None else _Task(*following)


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, each with a copy of a function."""

    function: Callable[[Any], Any]
    limits: Limits

    def start(self) -> _Process:
        """A new process."""
        return _Process(self.function, self.limits)

    def ready(self, workers: Collection[_Process], seconds: float) -> list[_Process]:
        """Those of some workers that have something to be taken."""
        limit = None if seconds == math.inf else seconds
        pipes = set(wait([worker.pipe for worker in workers], timeout=limit))
        return [worker for worker in workers if worker.pipe in pipes]


class _Process:
    def __init__(self, function: Callable[[Any], Any], limits: Limits) -> None:
        self.limits, self.deadline = limits, math.inf
        # Fresh processes: a fork would copy the threads' locks and the pipes of the others.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        # no daemon: those may have no processes of their own
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, function, limits))
        self.process.start()
        atexit.register(self.stop)  # before the interpreter waits for it
        theirs.close()

    def give(self, item: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died idle; `take` sees that
            self.pipe.send(item)
        self.deadline = time.monotonic() + self.limits.seconds

    def take(self, is_late: bool) -> Any:
        with contextlib.suppress(EOFError, OSError):
            if not is_late:
                return self.pipe.recv()
        if not is_late:
            self.process.join()
        code = self.process.exitcode or 0
        if is_late or code == -signal.SIGALRM:
            raise Gone(Failure("time", f"took longer than {self.limits.seconds:g} s"))
        by = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise Gone(Failure("crash", f"the worker died of {by}"))

    def stop(self) -> None:
        atexit.unregister(self.stop)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, function: Callable[[Any], Any], limits: Limits) -> None:
    """The life of a worker: items in, results out, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_memory(limits.memory_gb)
    pipe.send(None)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        # Should the parent be gone when the item hangs, nobody else would end this process.
        signal.alarm(0 if limits.seconds == math.inf else math.ceil(limits.seconds) + 5)
        try:
            answer = pickle.dumps(_answer(function, item, limits))
        finally:
            signal.alarm(0)
        try:
            pipe.send_bytes(answer)
        except BrokenPipeError:
            return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _answer(function: Callable[[Any], Any], item: Any, limits: Limits) -> Any:
    try:
        return function(item)
    except UserError as error:
        return error
    except MemoryError:
        return Failure("memory", f"needs more than {limits.memory_gb or math.inf:g} GB of memory")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return Failure("error", reason, traceback.format_exc())


def limit_memory(memory_gb: float | None) -> None:
    """Let this process take `memory_gb` of address space more than it has; Linux only."""
    if memory_gb is None:
        return
    try:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (held + int(memory_gb * GIB),) * 2)
