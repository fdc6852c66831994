"""Where the work of curation is done: processes of this machine, or Ray Data."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from t2v.config import CurateConfig
from t2v.errors import UserError
from t2v.workers import work

BLOCKS = 1000  # of Ray Data, at most: what a task that is lost has to do again


def run(
    function: Callable[[Any], Any], items: Sequence[Any], config: CurateConfig
) -> Iterator[tuple[int, Any]]:
    """The number and the result, or Failure, of each item, in the order they are done.

    Raises:
        UserError: from `function`, or Ray is asked for and not installed.
    """
    if config.engine == "ray":
        yield from _on_ray(function, items, config)
        return
    yield from work(
        function,
        items,
        workers=min(config.workers or len(os.sched_getaffinity(0)), max(1, len(items))),
        seconds=config.seconds_per_file,
        memory_gb=config.memory_gb,
    )


@dataclass(frozen=True)
class _Alone:
    """Runs an item in a process of its own below the Ray task: a crash is a verdict there too."""

    function: Callable[[Any], Any]
    seconds: float
    memory_gb: float

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        items = [pickle.loads(row["item"])]
        try:
            results = work(
                self.function, items, workers=1, seconds=self.seconds, memory_gb=self.memory_gb
            )
            result: Any = next(results)[1]
        except UserError as error:
            result = error
        return {"number": row["number"], "result": pickle.dumps(result)}


def _on_ray(
    function: Callable[[Any], Any], items: Sequence[Any], config: CurateConfig
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
    alone = _Alone(function, config.seconds_per_file, config.memory_gb)
    for row in data.map(alone).iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, UserError):
            raise result
        yield row["number"], result
