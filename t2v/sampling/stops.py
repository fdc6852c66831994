"""Signals that end a run, taken as Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stops_as_interrupts() -> Iterator[None]:
    """Take SIGTERM, and the end of a terminal, as Ctrl-C: what is done is kept; only once."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    names = ("SIGTERM", "SIGHUP")
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    here = threading.current_thread() is threading.main_thread()  # others get no signals
    caught = [each for each in known if here and signal.getsignal(each) == signal.SIG_DFL]
    for each in caught:  # who ignores one, as nohup does, goes on ignoring it
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each in caught:
            signal.signal(each, signal.SIG_DFL)
