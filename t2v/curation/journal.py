"""The finished part of a curation on disk: one entry a source, complete or absent."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from t2v.io.files import Lines, read_lines, write_bytes, write_lines
from t2v.io.manifest import Clip

logger = logging.getLogger(__name__)

WORK = "work"
THUMBS = "thumbs"


@dataclass
class Analysis:
    """The result of one source: its clips in order, and by clip id the inputs of later stages."""

    clips: list[Clip]
    prints: dict[str, np.ndarray] = field(default_factory=dict)  # `t h w` uint8
    thumbs: dict[str, bytes] = field(default_factory=dict)  # JPEG
    seconds: dict[str, float] = field(default_factory=dict)  # by stage


def save_analysis(folder: Path, key: str, analysis: Analysis) -> None:
    """Write a source's entry; it is written last, so that an entry that exists is complete."""
    for name, picture in analysis.thumbs.items():
        write_bytes(folder / THUMBS / f"{name}.jpg", picture)
    for name, pictures in analysis.prints.items():
        write_bytes(folder / WORK / f"{name}.print", _packed(pictures))
    row = {"clips": [asdict(clip) for clip in analysis.clips], "seconds": analysis.seconds}
    write_bytes(folder / WORK / f"{key}.json", json.dumps(row).encode())


def load_analysis(folder: Path, key: str) -> Analysis | None:
    """A source's entry without its prints and thumbnails; None when there is none."""
    path = folder / WORK / f"{key}.json"
    if not path.is_file():
        return None
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return Analysis([clip_of(each) for each in row["clips"]], seconds=row["seconds"])
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s): its film is analyzed again", path, error)
        return None


def clip_of(row: dict[str, Any]) -> Clip:
    """The clip whose `asdict` went through JSON."""
    lists = {name: tuple(row[name]) for name in ("captions", "tags")}
    return Clip(**row | lists)


def load_prints(folder: Path, clip: Clip) -> np.ndarray:
    """The fingerprint of a clip, `t h w` uint8."""
    return _unpacked((folder / WORK / f"{clip.extra['id']}.print").read_bytes())


def _packed(pictures: np.ndarray) -> bytes:
    head = json.dumps(pictures.shape).encode()
    return head + b"\n" + zlib.compress(pictures.tobytes(), 1)


def _unpacked(data: bytes) -> np.ndarray:
    head, _, body = data.partition(b"\n")
    return np.frombuffer(zlib.decompress(body), np.uint8).reshape(json.loads(head))


class ClipLog:
    """The clips a stage has finished, one line each; a torn last line does not count."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = dict(self._read()) if path.is_file() else {}
        write_lines(path, (_row(name, clip) for name, clip in self.done.items()))
        self.file = Lines(path)

    def _read(self) -> Iterator[tuple[str, Clip]]:
        for row in read_lines(self.path, "id", "clip"):
            with suppress(KeyError, TypeError):  # a row of another version: the clip is done again
                yield row["id"], clip_of(row["clip"])

    def add(self, name: str, clip: Clip) -> None:
        """Record a finished clip, on disk before this returns."""
        self.file.add(_row(name, clip))
        self.done[name] = clip

    def close(self) -> None:
        self.file.close()


def _row(name: str, clip: Clip) -> dict[str, Any]:
    return {"id": name, "clip": asdict(clip)}
