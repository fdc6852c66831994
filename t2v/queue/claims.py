"""Jobs that a worker takes, holds while it runs them, and ends; those of dead workers too."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from t2v.io.files import InUse, remove_partials
from t2v.queue.job import FILE_NAME, STATES, Job, State, file_name
from t2v.queue.store import GAP, Store, id_of, number, place_of, tell, told

DEATHS = 10  # points at which a job has failed whose workers died
KILLED, LOST = 5, 1  # points where its supervisor outlived the worker, and where none did
SETTLED = 1.0  # seconds after which a file put there by hand is taken for whole


@contextmanager
def claimed(store: Store) -> Iterator[Job | None]:
    """The next job, which runs as long as the block; None where none waits.

    First come those whose worker died. A job that the block does not `end` waits again.
    """
    with ExitStack() as held:
        job = None
        if store.names("running") or store.has_files():
            with store.turn():
                _adopt(store)
                job = _of_the_dead(store, held) or _waiting(store, held)
        try:
            yield job
        finally:
            if job is not None:
                with store.turn():
                    if store.path("running", job.name).exists():
                        store.rename(("running", job.name), ("queued", job.name))


def end(store: Store, job: Job, state: State, result: Mapping[str, Any]) -> None:
    """Bring a job that runs to its end; one that was cancelled in between stays cancelled."""
    with store.turn():
        _end(store, job.name, state, result)


def is_cancelled(store: Store, job: Job) -> bool:
    """True where a job that this process runs runs no more."""
    return not store.path("running", job.name).exists()


def mark_killed(store: Store, pid: int, number: int) -> bool:
    """Note at the job of a process of this machine that a signal ended it; false if it had none.

    Args:
        pid: of the worker.
        number: of the signal.
    """
    for name in store.names("running"):
        folder = store.files / id_of(name)
        if who(told(folder / "progress.json")) == (pid, socket.gethostname()):
            tell(folder / "killed.json", {"signal": number})
            return True
    return False


def who(progress: Mapping[str, Any]) -> tuple[Any, Any]:
    """The process and machine of a worker, by the progress of its job."""
    return progress.get("pid"), progress.get("host")


def _adopt(store: Store) -> None:
    """Give jobs that were put there by hand a name of their own."""
    for state in STATES:
        remove_partials(store.folder / state)
    others = {id_of(name) for state in STATES[1:] for name in store.names(state)}
    for path in sorted((store.folder / "queued").iterdir()):
        is_named = FILE_NAME.fullmatch(path.name) is not None
        if is_named and id_of(path.name) not in others:
            others.add(id_of(path.name))
            continue
        is_job = path.suffix == ".json" and not path.name.startswith(".")
        if is_job and (is_named or time.time() - path.lstat().st_mtime > SETTLED):
            place = place_of(path.name) if is_named else store.last_place() + GAP
            path.rename(path.with_name(file_name(place, secrets.token_hex(16))))


def _of_the_dead(store: Store, held: ExitStack) -> Job | None:
    for name in store.names("running"):
        lease = ExitStack()
        try:
            lease.enter_context(store.lease(name))
        except InUse:
            continue
        deaths, signal = _count_death(store, name)
        if deaths < DEATHS:
            held.enter_context(lease)
            return store.read("running", name, None, has_worker=True)
        by = f" (signal {signal}; 9 is also what the system sends when the memory ends)"
        message = (
            "Its worker died twice at the same place of it"
            f"{by if signal else ''}. Ask for fewer frames or a smaller size, or give "
            "offload=group; `t2v queue retry` tries it once more."
        )
        _end(store, name, "failed", {"message": message, "time": time.time()})
        lease.close()
    return None


def _count_death(store: Store, name: str) -> tuple[int, int | None]:
    """The points of a job whose worker died just now, and the signal, where it is known.

    They count from 0 again where it came further than at the death before.
    """
    folder = store.files / id_of(name)
    before, signal = told(folder / "deaths.json"), told(folder / "killed.json").get("signal")
    share, most = number(told(folder / "progress.json"), "share"), number(before, "share")
    points = int(number(before, "points")) if share <= most else 0
    points += LOST if signal is None else KILLED
    tell(folder / "deaths.json", {"points": points, "share": max(share, most)})
    (folder / "killed.json").unlink(missing_ok=True)
    return points, signal


def _waiting(store: Store, held: ExitStack) -> Job | None:
    for name in store.names("queued"):
        try:
            held.enter_context(store.lease(name))
        except InUse:  # it was cancelled and queued again, and its worker is about to notice
            continue
        store.rename(("queued", name), ("running", name))
        return store.read("running", name, None, has_worker=True)
    return None


def _end(store: Store, name: str, state: State, result: Mapping[str, Any]) -> None:
    runs = store.path("running", name).exists()
    if runs or store.path("cancelled", name).exists():
        with suppress(OSError):  # the disk may be full; where the job is says the most
            tell(store.files / id_of(name) / "result.json", result)
    if runs:
        store.rename(("running", name), (state, name))
