"""The contact sheet of a film of several scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from t2v.io.video import contact_sheet
from t2v.pipelines.story import Scene, Window

COLUMNS = 8  # frames of each scene


class FilmSheet:
    """A row of frames of each scene, from its first to its last."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.prompts = [scene.prompt for scene in scenes]
        self.wanted: dict[int, int] = {}  # frame of the film: its scene
        begin = 0
        for number, scene in enumerate(scenes):
            last = begin + scene.num_frames - 1
            columns = min(COLUMNS, scene.num_frames)
            spread = np.linspace(begin, last, columns).round().astype(int)
            self.wanted |= dict.fromkeys(spread.tolist(), number)
            begin = last + 1
        self.rows: list[list[np.ndarray]] = [[] for _ in scenes]

    def add(self, window: Window, frames: np.ndarray) -> None:
        for number, frame in enumerate(frames, window.first):
            if number in self.wanted:
                self.rows[self.wanted[number]].append(frame)

    def drawn(self) -> Any:
        return contact_sheet([np.stack(row) for row in self.rows], self.prompts, COLUMNS)
