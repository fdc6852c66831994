"""The speed of curation beside its lower bound, the decoding of the same files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from t2v.config.curation import CurateConfig
from t2v.curation.analyze import analyze
from t2v.curation.sources import Source, find_sources
from t2v.errors import UserError
from t2v.footage.containers import Unreadable
from t2v.footage.frames import iter_pictures, probe


def speed(footage: str, repeats: int) -> list[dict[str, Any]]:
    """Measure CPU seconds, frames per CPU second and the ratio to decoding; the best of `repeats`.

    One process and one thread each: `decode` only decodes, `curate` runs `probe`, `scenes` and
    every stage that measures shots.

    Raises:
        UserError: no footage, or none of it can be read.
    """
    sources = [each for each in find_sources(footage, Path("/nowhere")) if _plays(each)]
    if not sources:
        raise UserError(f"footage={footage}: none of the files can be read. Give films that play.")
    frames = sum(probe(each.path).num_frames for each in sources)
    cv2.setNumThreads(1)
    config = CurateConfig(input=footage, output="unused")
    runs: dict[str, Callable[[Source], Any]] = {
        "decode": _decode,
        "curate": lambda source: analyze(source, config),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):  # in turn: a machine that slows down does so for all of them
        for name, run in runs.items():
            start = time.process_time()
            for source in sources:
                run(source)
            seconds[name].append(time.process_time() - start)
    floor = min(seconds["decode"])
    return [
        {
            "run": name,
            "files": len(sources),
            "frames": frames,
            "cpu_s": min(taken),
            "frames_s": frames / min(taken),
            "by_decode": min(taken) / floor,
        }
        for name, taken in seconds.items()
    ]


def _plays(source: Source) -> bool:
    try:
        probe(source.path)
        for _ in iter_pictures(Path(source.path)):
            pass
    except Unreadable:
        return False
    return True


def _decode(source: Source) -> None:
    for _ in iter_pictures(Path(source.path)):
        pass
