"""`Spool`: frames that are needed more than once, on the disk meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO

import numpy as np

FRAMES = 16  # that are read at a time


class Spool:
    """A nameless file of frames, beside what is made of them; it ends with the block.

    Args:
        folder: where it is, as the system's own place for such files may be in memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def passing(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield pieces `t h w c` uint8 of one video, and keep them."""
        self._file = TemporaryFile(dir=self.folder)  # noqa: SIM115 - the block closes it
        for piece in pieces:
            self._shape = piece.shape[1:]
            self._file.write(np.ascontiguousarray(piece).data)
            yield piece

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames that have passed, each `h w c` uint8."""
        for piece in self.pieces():
            yield from piece

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the frames that have passed in pieces `t h w c` uint8."""
        assert self._file is not None
        self._file.seek(0)
        size = FRAMES * int(np.prod(self._shape))
        while some := self._file.read(size):
            yield np.frombuffer(some, np.uint8).reshape(-1, *self._shape)
