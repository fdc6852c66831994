"""The disk that a queue is on, when it is full."""

from __future__ import annotations

import errno
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)


def is_full(error: BaseException) -> bool:
    """True where an error came of a disk, or a user's share of one, that is full."""
    seen: BaseException | None = error
    while seen is not None:
        # some libraries raise errors of their own, with the system's words in them
        if "No space left on device" in str(seen) or getattr(seen, "errno", None) in FULL:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def on_one_disk(place: Path, other: Path) -> bool:
    """True where two folders are on one file system; false where one cannot be seen."""
    try:
        return place.stat().st_dev == other.stat().st_dev
    except OSError:
        return False
