"""Many clips or prompts at once: processes of this machine, or the machines of a Ray cluster."""

from __future__ import annotations

import math
import os
import pickle
import re
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from tqdm import tqdm

from t2v.errors import UserError
from t2v.io.progress import progress
from t2v.io.workers import TRIES, Failure, Gone, Limits, Pool, Processes

Model = TypeVar("Model")
Result = TypeVar("Result")
Task = Callable[[Model], Result]

SECONDS = 10.0  # in which a cluster has to answer
EXTRA = 'pip install "t2v[ray]"'
# what decides the bits of a result beside the settings: the same on every machine
PACKAGES = ("t2v", "torch", "diffusers", "transformers", "numpy", "av")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "T2V_KERNELS")


class Settings(Protocol):
    """The settings of a command that say where its work is done."""

    @property
    def engine(self) -> Literal["local", "ray"]:
        """Processes of this machine, or a Ray cluster."""

    @property
    def workers(self) -> int | None:
        """Processes at work; 0 or None: as many as there is room for."""


class FileSettings(Settings, Protocol):
    """Settings that limit what one file may take, too."""

    @property
    def seconds_per_file(self) -> float:
        """Seconds of time."""

    @property
    def memory_gb(self) -> float:
        """GB of memory."""


def run(
    doing: str,
    unit: str,
    function: Callable[[Any], Any],
    items: Sequence[Any],
    config: FileSettings,
    device: str = "cpu",
) -> Iterator[tuple[int, Any]]:
    """Yield the number and the result, or Failure, of each item, in the order they finish.

    Memory is limited on the CPU alone: CUDA maps far more addresses than it uses.

    Args:
        doing: the work, as progress is shown: "caption".
        unit: a plural noun for the items: "clips".
        device: the device that `function` computes on.

    Raises:
        UserError: from `function`, or Ray was chosen and is not installed or not there.
    """
    limits = Limits(config.seconds_per_file, config.memory_gb if device == "cpu" else None)
    if not items:
        return
    with _pool(config, function, limits, Needs(gpus=int(device.startswith("cuda")))) as pool:
        results = pool.results(items, count=len(items))
        yield from progress(results, doing, unit, total=len(items))


def require_engine(config: Settings) -> None:
    """Raise `UserError` where Ray is asked for and not installed, before anything is done."""
    if config.engine != "ray":
        return
    found = find_spec("ray")
    if found is None or found.origin is None:  # no more than a folder of that name
        raise UserError(f"engine=ray needs Ray: {EXTRA}.")


def model_pool(config: Settings, load: Callable[[], Any], device: str, threads: int) -> Pool:
    """Workers that each load a model once, for tasks that are called with it.

    Args:
        load: gives the model; a function of a module, or a `functools.partial` of one.
        device: of the model, here; a worker on Ray gets one GPU where it is one.
        threads: of matrix products, on which their bits depend.

    Raises:
        UserError: Ray was chosen and is not installed or not there.
    """
    needs = Needs(gpus=int(device.startswith("cuda")), cpus=threads)
    return _pool(config, Resident(load, threads), Limits(), needs)


class Resident(Generic[Model]):
    """A model that a worker loads at its first task and keeps; every task is called with it."""

    def __init__(self, load: Callable[[], Model], threads: int) -> None:
        self.load, self.threads = load, threads
        self.model: list[Model] = []

    def __call__(self, task: Task[Model, Result]) -> Result:
        if not self.model:
            tqdm.set_lock(threading.RLock())  # a kill would leave the one between processes behind
            os.environ["OMP_NUM_THREADS"] = str(self.threads)  # for a torch that comes with `load`
            if (torch := sys.modules.get("torch")) is not None:
                torch.set_num_threads(self.threads)
            with _telling("load the model"):
                self.model.append(self.load())
        return task(self.model[0])


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """End the run where a worker fails before its first item, which the others would do too."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"A worker on {socket.gethostname()} cannot {what} ({type(error).__name__}: {error}). "
            "Try the command without engine and workers there."
        ) from error


def succeeded(results: Iterable[tuple[int, Any]], names: Sequence[str]) -> Iterator[Any]:
    """Yield the results of items none of which may fail.

    Args:
        names: of the items, for the message.

    Raises:
        UserError: the worker of an item died every time, or its memory ended.
    """
    for number, result in results:
        if not isinstance(result, Failure):
            yield result
        elif result.kind == "error":
            raise RuntimeError(f"{names[number]}: {result.trace}")
        else:
            times = f", {TRIES} times" if result.kind == "crash" else ""
            raise UserError(
                f"{names[number]}: {result.reason}{times}. What is finished is kept; leave it out, "
                "or see that a worker has the memory for it, and give the same command again."
            )


@dataclass(frozen=True)
class Needs:
    """The part of a cluster that a worker holds."""

    gpus: int = 0
    cpus: int = 1


def cores() -> int:
    """The processors that this process may use; of macOS and Windows, which do not say, all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pool(config: Settings, function: Callable[[Any], Any], limits: Limits, needs: Needs) -> Pool:
    require_engine(config)
    if config.engine == "local":
        return Pool(Processes(function, limits), config.workers or cores())
    actors = Actors(_connected(), function, limits, needs)
    return Pool(actors, config.workers or actors.room())


def _connected() -> Any:
    """The package ray, connected to the cluster of RAY_ADDRESS, else to that of this machine.

    Raises:
        UserError: there is no such cluster.
    """
    import ray

    if ray.is_initialized():
        return ray
    given = os.environ.get("RAY_ADDRESS")
    try:
        if found := re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", given or ""):
            # Ray would try for minutes
            socket.create_connection((found[1], int(found[2])), timeout=SECONDS).close()
        ray.init(include_dashboard=False, log_to_driver=False)
    except (RuntimeError, ValueError, OSError) as error:
        place = f"RAY_ADDRESS={given}" if given else "this machine"
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"engine=ray: no cluster answers at {place} ({reason}). Start one there with `ray "
            "start --head`, name another, or unset RAY_ADDRESS to use this machine alone."
        ) from error
    return ray


class Actors:
    """Actors of a Ray cluster, each with a process below it that has a copy of a function.

    Args:
        ray: the package, connected.
        function: of a module that is installed on every machine.

    Raises:
        UserError: no machine has what a worker needs.
    """

    def __init__(
        self, ray: Any, function: Callable[[Any], Any], limits: Limits, needs: Needs
    ) -> None:
        self.ray, self.function, self.limits = ray, pickle.dumps(function), limits
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        most = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        self.needs = Needs(needs.gpus, max(1, min(needs.cpus, most)))
        self.nodes = nodes
        if self.room() == 0:
            wanted = "GPU" if needs.gpus else "CPU"
            raise UserError(
                f"engine=ray: none of the {len(nodes)} machines of the cluster has a {wanted} for "
                f"a worker. Start Ray on some that have{', or give device=cpu' * needs.gpus}."
            )

    def room(self) -> int:
        """The workers that the cluster has room for."""
        cpus = sum(int(node.get("CPU", 0)) // self.needs.cpus for node in self.nodes)
        gpus = sum(int(node.get("GPU", 0)) for node in self.nodes)
        return min(cpus, gpus) if self.needs.gpus else cpus

    def start(self) -> _Actor:
        """A new actor."""
        remote = self.ray.remote(Isolated)
        held = remote.options(num_cpus=self.needs.cpus, num_gpus=self.needs.gpus, max_restarts=0)
        variables = {name: os.environ.get(name) for name in VARIABLES}
        place = str(Path.cwd())
        return _Actor(self.ray, held.remote(self.function, self.limits, variables, place))

    def ready(self, workers: Collection[_Actor], seconds: float) -> list[_Actor]:
        """Those of some actors that have something to be taken."""
        limit = None if seconds == math.inf else seconds
        found, _ = self.ray.wait([worker.answer for worker in workers], timeout=limit)
        return [worker for worker in workers if worker.answer in found]


class _Actor:
    deadline = math.inf  # time is limited below it

    def __init__(self, ray: Any, actor: Any) -> None:
        self.ray, self.actor = ray, actor
        self.answer = actor.setup.remote()  # waits until the cluster has room

    def give(self, item: Any) -> None:
        self.answer = self.actor.work.remote(pickle.dumps(item))

    def take(self, is_late: bool) -> Any:
        try:
            answer = self.ray.get(self.answer)
        except self.ray.exceptions.RayActorError as error:
            if getattr(error, "actor_init_failed", False):
                raise UserError(f"engine=ray: a worker does not start. {_last(error)}") from error
            raise Gone(Failure("crash", "the Ray worker died")) from error
        except self.ray.exceptions.RayTaskError as error:
            raise UserError(f"engine=ray: a worker fails. {_last(error)}") from error
        except self.ray.exceptions.RayError as error:  # its result is lost with its machine
            raise Gone(Failure("crash", "the machine of the Ray worker died")) from error
        if isinstance(answer, tuple):  # of `setup`
            return _difference(*answer)
        return pickle.loads(answer) if isinstance(answer, bytes) else answer

    def stop(self) -> None:
        self.ray.kill(self.actor)


def _last(error: Exception) -> str:
    """The last line of what Ray says, which names the error itself."""
    return str(error).strip().splitlines()[-1].strip()


def setup() -> dict[str, str]:
    """The versions of the packages that decide the bits of a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # t2v itself, run from a clone
            continue
    return found


def _difference(host: str, theirs: dict[str, str]) -> UserError | None:
    ours = setup()
    other = [name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]]
    if not other:
        return None
    told = ", ".join(f"{name} {theirs[name]} (here {ours[name]})" for name in sorted(other))
    return UserError(
        f"engine=ray: the machine {host} has {told}. Install the same versions on all, so that "
        "results do not depend on where they were made."
    )


class Isolated:
    """The inside of a Ray actor: a process of its own, so that a crash there costs one item.

    It lives from item to item, with the model that it may have loaded, and alone imports what the
    function, items and results need.
    """

    def __init__(
        self,
        function: bytes,
        limits: Limits,
        variables: dict[str, str | None],
        place: str,
    ) -> None:
        with suppress(OSError):  # paths may be relative; a machine need not have this folder
            os.chdir(place)
        for name, value in variables.items():  # Ray sets the threads of a worker to its cores
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        self.pool = Pool(Processes(_Pickled(function), limits), 1)

    def setup(self) -> tuple[str, dict[str, str]]:
        """The machine's name and its versions."""
        return socket.gethostname(), setup()

    def work(self, item: bytes) -> bytes | Failure | UserError:
        """The pickled result of a pickled item."""
        try:
            ((_, result),) = self.pool.results([item])
        except UserError as error:
            return error
        found: bytes | Failure = result
        return found


class _Pickled:
    """A pickled function, of pickled items to pickled results."""

    def __init__(self, function: bytes) -> None:
        self.pickled, self.function = function, None

    def __call__(self, item: bytes) -> bytes:
        if self.function is None:
            with _telling("find the code"):
                self.function = pickle.loads(self.pickled)
        assert self.function is not None
        return pickle.dumps(self.function(pickle.loads(item)))
