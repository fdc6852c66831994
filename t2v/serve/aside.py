"""Work on files that may crash or hang their reader, in a process that can be killed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2v.errors import UserError
from t2v.io.workers import Failure, work

MEMORY_GB = 2.0  # that it may take
_one = threading.Lock()  # decoding takes a core: one at a time


def aside(function: Callable[[Path], Any], path: Path, seconds: float) -> tuple[Any, str | None]:
    """The result of a function of a path, or why there is none.

    Args:
        seconds: that it may take.
    """
    with _one:
        try:
            items = work(function, [path], workers=1, seconds=seconds, memory_gb=MEMORY_GB)
            ((_, result),) = items
        except UserError as error:
            return None, str(error)
    return (None, result.reason) if isinstance(result, Failure) else (result, None)
