"""Maps a function over items in processes that may crash, hang or run out of memory."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import pickle
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from t2v.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
GIB = 2**30


@dataclass(frozen=True)
class Failure:
    """The outcome of an item that gave no result, with the `reason` in words."""

    kind: Literal["error", "crash", "time", "memory"]
    reason: str


def work(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    seconds: float = 600.0,
    memory_gb: float = 4.0,
    in_order: bool = False,
) -> Iterator[tuple[int, Result | Failure]]:
    """The result of each item with the item's number, as they come or in the order of the items.

    One item is with a worker at a time, and items are drawn only when a worker is free, so both
    ends may stream. A worker that dies is replaced and its item tried once more: someone may have
    killed it for no fault of the item. An item that takes too long or too much memory is not.

    Args:
        function: a function of a module, or a `functools.partial` of one.
        items: anything that pickles.
        workers: how many processes; each imports only what `function` needs.
        seconds: how long an item may take.
        memory_gb: how much address space it may take beyond what the process starts with.
        in_order: give results in the order of the items; later ones wait in memory.

    Raises:
        UserError: `function` raised it: what the user has to mend would fail every item.
    """
    pool: list[_Worker[Item]] = []
    try:
        for _ in range(workers):
            pool.append(_Worker(function, memory_gb))
        results = _results(pool, iter(enumerate(items)), seconds)
        yield from _ordered(results) if in_order else results
    finally:
        for worker in pool:
            worker.stop()


class _Worker(Generic[Item]):
    """One process, started again when it has died; at most one item is with it."""

    def __init__(self, function: Callable[[Item], Any], memory_gb: float) -> None:
        self.target = function, memory_gb
        self.number, self.item, self.tries = -1, None, 0  # type: tuple[int, Item | None, int]
        self.deadline = math.inf
        self._start()

    def _start(self) -> None:
        # Fresh processes: a fork would copy the threads' locks and the pipes of the others.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, *self.target), daemon=True
        )
        self.process.start()
        theirs.close()

    def give(self, number: int, item: Item, seconds: float, tries: int = 0) -> None:
        self.number, self.item, self.tries = number, item, tries
        with contextlib.suppress(BrokenPipeError):  # it died idle; `take` sees that
            self.pipe.send((item, seconds))
        self.deadline = time.monotonic() + seconds

    def take(self) -> Any:
        """The result, or a Failure of kind crash when the process is gone."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            by = f"signal {-code}" if code < 0 else f"exit code {code}"
            late = code == -signal.SIGALRM
            return Failure("time" if late else "crash", f"the worker died of {by}")

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def restart(self) -> None:
        self.stop()
        self._start()


def _results(
    pool: list[_Worker[Item]], numbered: Iterator[tuple[int, Item]], seconds: float
) -> Iterator[tuple[int, Any]]:
    busy: list[_Worker[Item]] = []
    idle = list(pool)
    while True:
        while idle and (following := next(numbered, None)) is not None:
            worker = idle.pop()
            worker.give(*following, seconds)
            busy.append(worker)
        if not busy:
            return
        left = min(worker.deadline for worker in busy) - time.monotonic()
        ready = set(wait([worker.pipe for worker in busy], timeout=max(0.0, left)))
        for worker in list(busy):
            late = time.monotonic() > worker.deadline
            if worker.pipe not in ready and not late:
                continue
            result = _outcome(worker, worker.pipe in ready, seconds)
            if isinstance(result, Failure) and result.kind in ("crash", "time"):
                worker.restart()
                if result.kind == "crash" and worker.tries == 0 and worker.item is not None:
                    worker.give(worker.number, worker.item, seconds, tries=1)
                    continue
            busy.remove(worker)
            idle.append(worker)
            yield worker.number, result


def _outcome(worker: _Worker[Any], is_ready: bool, seconds: float) -> Any:
    result = worker.take() if is_ready else Failure("time", "")
    if isinstance(result, Failure) and result.kind == "time":
        return Failure("time", f"took longer than {seconds:g} s")
    if isinstance(result, UserError):
        raise result
    return result


def _ordered(results: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    waiting: dict[int, Any] = {}
    turn = 0
    for number, result in results:
        waiting[number] = result
        while turn in waiting:
            yield turn, waiting.pop(turn)
            turn += 1


def _serve(pipe: Connection, function: Callable[[Any], Any], memory_gb: float) -> None:
    """The life of a worker: items in, results out, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    limit_memory(memory_gb)
    while True:
        try:
            item, seconds = pipe.recv()
        except EOFError:
            return
        # Should the parent be gone when the item hangs, nobody else would end this process.
        signal.alarm(math.ceil(seconds) + 5)
        try:
            answer = pickle.dumps(_answer(function, item, memory_gb))
        finally:
            signal.alarm(0)
        try:
            pipe.send_bytes(answer)
        except BrokenPipeError:
            return


def _answer(function: Callable[[Any], Any], item: Any, memory_gb: float) -> Any:
    try:
        return function(item)
    except UserError as error:
        return error
    except MemoryError:
        return Failure("memory", f"needs more than {memory_gb:g} GB of memory")
    except Exception as error:
        return Failure("error", f"{type(error).__name__}: {error}")


def limit_memory(memory_gb: float) -> None:
    """Let this process take `memory_gb` of address space more than it has; Linux only."""
    try:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (held + int(memory_gb * GIB),) * 2)
