"""The workers of a curation: processes of this machine, or Ray Data."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from t2v.config.curation import CurateConfig
from t2v.errors import UserError
from t2v.io.progress import progress
from t2v.io.workers import work

BLOCKS = 1000  # of Ray Data, at most: a lost task repeats one block
UNLIMITED = 1e6  # GB


def run(
    doing: str,
    unit: str,
    function: Callable[[Any], Any],
    items: Sequence[Any],
    config: CurateConfig,
    device: str = "cpu",
) -> Iterator[tuple[int, Any]]:
    """Yield the number and the result, or Failure, of each item, in the order they finish.

    Memory is limited on the CPU alone: CUDA maps far more addresses than it uses.

    Args:
        doing: the work, as progress is shown: "caption".
        unit: a plural noun for the items: "clips".
        device: the device that `function` computes on.

    Raises:
        UserError: from `function`, or Ray was chosen and is not installed.
    """
    if device != "cpu":
        config = replace(config, memory_gb=UNLIMITED)
    if config.engine == "ray":
        results = _on_ray(function, items, config, gpus=int(device.startswith("cuda")))
    else:
        results = work(
            function,
            items,
            workers=min(config.workers or len(os.sched_getaffinity(0)), max(1, len(items))),
            seconds=config.seconds_per_file,
            memory_gb=config.memory_gb,
        )
    yield from progress(results, doing, unit, total=len(items))


class _Isolated:
    """A process of its own below a Ray actor, so that there too a crash fails one item only.

    It lives from item to item, with the model that it may have loaded.
    """

    def __init__(self, function: Callable[[Any], Any], seconds: float, memory_gb: float) -> None:
        self.work = partial(work, function, workers=1, seconds=seconds, memory_gb=memory_gb)
        self.waiting: list[Any] = []
        self.results = self.work(self._items())

    def _items(self) -> Iterator[Any]:
        while self.waiting:  # `__call__` adds an item before it asks for a result
            yield self.waiting.pop()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self.waiting.append(pickle.loads(row["item"]))
        try:
            result: Any = next(self.results)[1]
        except UserError as error:
            self.results = self.work(self._items())
            result = error
        return {"number": row["number"], "result": pickle.dumps(result)}


def _on_ray(
    function: Callable[[Any], Any], items: Sequence[Any], config: CurateConfig, gpus: int
) -> Iterator[tuple[int, Any]]:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError('engine=ray needs Ray Data: pip install "t2v[curate-ray]".') from error
    if not items:
        return
    if not ray.is_initialized():  # RAY_ADDRESS names a cluster; without it, this machine
        ray.init(include_dashboard=False, log_to_driver=False, num_cpus=config.workers or None)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"number": n, "item": pickle.dumps(item)} for n, item in enumerate(items)]
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS))
    actor: Any = _Isolated  # Ray's types know functions only
    done = data.map(
        actor,
        fn_constructor_args=(function, config.seconds_per_file, config.memory_gb),
        concurrency=(1, max(1, min(len(rows), int(ray.cluster_resources().get("CPU", 1))))),
        num_cpus=1,
        num_gpus=gpus,
    )
    for row in done.iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, UserError):
            raise result
        yield row["number"], result
