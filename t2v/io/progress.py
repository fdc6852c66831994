"""Progress of long work: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A bar on a terminal; elsewhere a log line every ten seconds, and one at the end.

    Args:
        total: how many units there are to do; None where nobody knows.
        doing: the work, as the bar and the lines name it: "encode".
        unit: a plural noun: "clips".
        done: units that an earlier run has done; they do not count for the rate.
    """

    def __init__(self, total: int | None, doing: str, unit: str, done: int = 0) -> None:
        self.total, self.doing, self.unit, self.done = total, doing, unit, done
        self._first, self._began = done, time.monotonic()
        self._spoke, self._figures = self._began, ""
        self._bar = tqdm(total=total, desc=doing, unit=f" {unit}", initial=done, disable=None)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, count: int = 1, **figures: float | str) -> None:
        """Count finished units; `figures` are shown beside the count, numbers to 3 places."""
        self.done += count
        self._bar.update(count)
        if figures:
            shown = {
                name: each if isinstance(each, str) else f"{each:.3f}"
                for name, each in figures.items()
            }
            self._figures = "".join(f", {name} {value}" for name, value in shown.items())
            self._bar.set_postfix(shown, refresh=False)
        now = time.monotonic()
        if self._bar.disable and (
            now - self._spoke >= SECONDS_BETWEEN_LINES or self.done == self.total
        ):
            self._spoke = now
            logger.info("%s", self._line(now))

    def _line(self, now: float) -> str:
        rate = (self.done - self._first) / max(now - self._began, 1e-6)
        if self.total is None:
            return f"{self.doing}: {self.done} {self.unit}, {rate:.2f} a second{self._figures}"
        left = (self.total - self.done) / max(rate, 1e-6)
        return (
            f"{self.doing}: {self.done} of {self.total} {self.unit}, {rate:.2f} a second, "
            f"{left:.0f} s left{self._figures}"
        )


def progress(
    items: Iterable[Item], doing: str, unit: str, total: int | None = None
) -> Iterator[Item]:
    """Yield `items`, each counted when the next one is asked for; see `Progress`."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(total, doing, unit) as bar:
        for item in items:
            yield item
            bar.update()
