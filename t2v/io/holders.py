"""The processes that hold outputs, as their lock files tell."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER_LOCK = ".t2v.lock"


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine lives; on Windows, where asking ends it, True."""
    if sys.platform == "win32":
        return True
    try:
        with suppress(PermissionError):  # it is another user's
            os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    return True


def lock_of(folder: Path) -> dict[str, Any] | None:
    """Return what the lock file of a folder tells, without touching the lock; None: there is none.

    A lock file that outlived a kill locks nothing: see `is_held`.
    """
    try:
        with (folder / FOLDER_LOCK).open("rb") as file:
            told = json.loads(file.read(10_000))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def is_held(told: dict[str, Any]) -> bool | None:
    """Return whether the process of a lock file lives; None: it is of another machine."""
    pid = told.get("pid")
    if told.get("host") != socket.gethostname() or not isinstance(pid, int) or pid < 1:
        return None
    return is_alive(pid)
