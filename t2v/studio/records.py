"""The metrics of trainings, read line by line as they grow."""

from __future__ import annotations

import json
import math
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
PIECE = 2**20  # bytes read at a time; no line is longer
MOST_BYTES = 2**30  # of a file; what follows is not read
MOST_OF_TAIL = 2**14  # bytes
MOST_NAMES = 200  # figures; a training has tens
MOST_KEPT = 12  # files whose lines stay in memory


class Record:
    """The lines of a file of metrics. Each is read once, unless the file is written anew.

    Lines that a kill tore, and those without a step, are left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._file, self._read = (0, 0), 0
        self._steps: list[Numbers] = []
        self._columns: dict[str, list[Numbers]] = {}
        self._joined: dict[str, Numbers] | None = None

    def refresh(self) -> Record:
        """Read what was added; returns itself.

        Raises:
            OSError: the file cannot be read.
        """
        with self._turn, self.path.open("rb") as file:
            about = os.fstat(file.fileno())
            identity = (about.st_dev, about.st_ino)
            if identity != self._file or about.st_size < self._read:
                self._begin()
                self._file = identity
            file.seek(self._read)
            while self._read < MOST_BYTES:
                piece = file.read(PIECE)
                whole = piece[: piece.rfind(b"\n") + 1]
                if not whole:
                    break
                self._read += len(whole)
                file.seek(self._read)
                self._add(_rows(whole))
        return self

    def _add(self, rows: list[dict[str, Any]]) -> None:
        steps = _column(rows, "step")
        if not (known := np.isfinite(steps)).all():
            rows, steps = [row for row, has in zip(rows, known, strict=True) if has], steps[known]
        if not rows:
            return
        names = dict.fromkeys(chain.from_iterable(rows))
        fresh = [name for name in names if name != "step" and name not in self._columns]
        before = sum(map(len, self._steps))
        for name in fresh[: max(0, MOST_NAMES - len(self._columns))]:
            self._columns[name] = [np.full(before, math.nan)]
        self._steps.append(steps)
        for name, pieces in self._columns.items():
            pieces.append(_column(rows, name))
        self._joined = None

    def columns(self) -> dict[str, Numbers]:
        """The figures by name, `n` each, `step` among them; nan where a line has none."""
        with self._turn:
            if self._joined is None:
                step = np.concatenate(self._steps) if self._steps else np.empty(0)
                order = np.argsort(step, kind="stable")
                found = {"step": step[order]}
                for name, pieces in self._columns.items():
                    values = np.concatenate(pieces)[order]
                    if np.isfinite(values).any():
                        found[name] = values
                self._joined = found
            return self._joined


class Records:
    """The records of several files, of which the last used stay in memory."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, Record] = OrderedDict()
        self._turn = threading.Lock()

    def of(self, path: Path) -> Record:
        """The record of a file, up to its last whole line.

        Raises:
            OSError: it cannot be read.
        """
        with self._turn:
            record = self._kept.pop(path, None) or Record(path)
            self._kept[path] = record
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return record.refresh()


def _rows(lines: bytes) -> list[dict[str, Any]]:
    """The objects of some whole lines."""
    whole = [line for line in (each.strip(b"\0\r \t") for each in lines.split(b"\n")) if line]
    try:  # all at once takes half the time
        found: Iterable[Any] = json.loads(b"[" + b",".join(whole) + b"]")
    except (ValueError, RecursionError):
        found = map(_parsed, whole)
    return [row for row in found if isinstance(row, dict)]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _column(rows: list[dict[str, Any]], name: str) -> Numbers:
    try:
        values = [row[name] for row in rows]
    except KeyError:
        values = [row.get(name, math.nan) for row in rows]
    kinds = set(map(type, values))
    if not kinds <= {float}:
        values = [_number(value) for value in values]
    return np.array(values, np.float64)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def tail(path: Path, count: int) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The last whole lines of a file of metrics, and the last one with a verdict.

    It reads no more of the file than that, however long it is.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return [], None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            end = text.rfind(b"\n") + 1
            begin = max(0, end - MOST_OF_TAIL)
            rows = _rows(text[begin:end].partition(b"\n")[2] if begin else text[:end])
            at = text.rfind(b'"verdict": "', 0, end)
            line = text[text.rfind(b"\n", 0, at) + 1 : text.find(b"\n", at)] if at >= 0 else b""
    told = _rows(line) or [{}]
    return rows[-count:], told[0] if isinstance(told[0].get("verdict"), str) else None
