"""Small pictures and films of clips, for browsers: decoded in processes that can be killed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from t2v.data.decode import crop_of, read_rendered
from t2v.errors import UserError
from t2v.footage.containers import Unreadable
from t2v.footage.frames import iter_frames, probe
from t2v.footage.still import read_picture
from t2v.io.addresses import shown
from t2v.io.files import complete, digest
from t2v.io.manifest import IMAGE_SUFFIXES, Clip
from t2v.io.stores import Missing
from t2v.io.video import video_writer
from t2v.io.workers import Failure, Limits, Pool, Processes, Worker
from t2v.io.working_copies import at_hand

SIDE = 480  # pixels, at most
SECONDS = 15.0  # of a film, at most
RATE = 30.0  # frames a second, at most
RENDERED_RATE = 8.0  # of a rendered clip whose row tells none
LIMITS = Limits(seconds=30.0, memory_gb=3.0)
MOST = 512  # files that are kept; the least used make room
Kind = Literal["picture", "film"]
SUFFIX: dict[Kind, str] = {"picture": ".jpg", "film": ".mp4"}


class Unshowable(Exception):
    """A clip that cannot be decoded, and why."""


class _Crew:
    """Processes of a function; once it is closed they are killed and there are no others."""

    def __init__(self, function: Callable[[tuple[Clip, Path]], str]) -> None:
        self._processes, self._lock = Processes(function, LIMITS), threading.Lock()
        self._begun: list[Any] = []
        self._is_closed = False

    def start(self) -> Worker:
        """A new process."""
        with self._lock:
            if self._is_closed:
                raise UserError("The studio is ending. Start it again to see the clip.")
            self._begun = [self._processes.start()]  # one at a time
            return self._begun[0]

    def ready(self, workers: Collection[Any], seconds: float) -> Collection[Any]:
        """Those of some processes that have something to be taken."""
        return self._processes.ready(workers, seconds)

    def close(self) -> None:
        """Kill the process; the thread that waits for it sees that."""
        with self._lock:
            self._is_closed = True
            for worker in self._begun:
                worker.process.kill()


class Previews:
    """The pictures and films of clips, each made when it is first asked for.

    Whatever a manifest names, what is sent are pixels that were decoded from it. Threads may share
    one; pictures do not wait for films.

    Args:
        folder: where they are kept, and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._crews: dict[Kind, _Crew] = {
            "picture": _Crew(_write_picture),
            "film": _Crew(_write_film),
        }
        self._pools = {kind: Pool(crew, 1) for kind, crew in self._crews.items()}
        self._turns: dict[Kind, threading.Lock] = {kind: threading.Lock() for kind in SUFFIX}
        self._lock = threading.Lock()
        self._used: OrderedDict[str, str] = OrderedDict()  # the reason of those that have no file

    def close(self) -> None:
        """End the processes, whatever they do; who waits for one is told so."""
        for kind, crew in self._crews.items():
            crew.close()
            with self._turns[kind]:
                self._pools[kind].__exit__(None, None, None)

    def file(self, clip: Clip, kind: Kind) -> Path:
        """The picture (JPEG) or film (H.264) of a clip.

        Raises:
            Unshowable: it cannot be decoded.
        """
        path = self.folder / f"{_name(clip)}{SUFFIX[kind]}"
        with self._turns[kind]:
            with self._lock:
                reason = self._used.get(path.name)
                # a folder of the system for what passes may be cleared while its user is alive
                is_known = reason is not None and (bool(reason) or path.exists())
                if is_known:
                    self._used.move_to_end(path.name)
            if reason is None or not is_known:
                reason = self._made(clip, kind, path)
        if reason:
            raise Unshowable(reason)
        return path

    def _made(self, clip: Clip, kind: Kind, path: Path) -> str:
        self.folder.mkdir(exist_ok=True)
        try:
            at_hand(clip.path)
            ((_, result),) = self._pools[kind].results([(clip, path)], count=1)
        except (Missing, UserError) as error:  # of an address; workers give theirs back
            result = shown(error)
        reason = result.reason if isinstance(result, Failure) else str(result)
        with self._lock:
            self._used[path.name] = reason
            while len(self._used) > MOST:
                old, _ = self._used.popitem(last=False)
                (self.folder / old).unlink(missing_ok=True)
        return reason


def _name(clip: Clip) -> str:
    """A name for what is shown of a clip: another one where its file, span or crop is another."""
    try:
        about = Path(clip.path).stat()
        version = about.st_mtime_ns, about.st_size
    except (OSError, ValueError):
        version = 0, 0
    shape = clip.extra.get("crop"), clip.extra.get("index")
    return digest(clip.path, clip.start, clip.end, *shape, *version)


def _write_picture(item: tuple[Clip, Path]) -> str:
    """Write the clip's first frame; return the reason where there is none."""
    clip, path = item
    try:
        _, frames = _frames(clip)
        first = next(frames, None)
        if first is None:
            return "it has no frames"
        with complete(path) as unfinished:
            Image.fromarray(first).save(unfinished, format="JPEG", quality=85)
    except UserError as error:
        return _reason(error)
    return ""


def _write_film(item: tuple[Clip, Path]) -> str:
    """Write the clip's first `SECONDS`; return the reason where they cannot be read."""
    clip, path = item
    try:
        rate, frames = _frames(clip)
        first = next(frames, None)
        if first is None:
            return "it has no frames"
        height, width = first.shape[:2]
        with video_writer(path, height, width, rate) as add:
            for frame in islice(chain([first], frames), round(SECONDS * rate)):
                add(frame[None])
    except UserError as error:
        return _reason(error)
    return ""


def _reason(error: UserError) -> str:
    if isinstance(error, Unreadable):
        return ": ".join(filter(None, (error.fault, error.detail)))
    return shown(error)


def _frames(clip: Clip) -> tuple[float, Iterator[np.ndarray]]:
    """The rate and the frames of a clip as training crops them, `h w c` uint8, scaled to `SIDE`."""
    if clip.is_rendered:
        frames = iter(read_rendered(clip))
        return min(clip.fps or RENDERED_RATE, RATE), map(_small, frames)
    crop = crop_of(clip)
    if Path(clip.path).suffix.lower() in IMAGE_SUFFIXES:
        image = Image.fromarray(read_picture(Path(clip.path)))
        if crop:
            left, top, width, height = crop
            image = image.crop((left, top, left + width, top + height))
        return 1.0, iter([_small(np.asarray(image))])
    film = probe(clip.path)
    width, height = crop[2:] if crop else (film.width, film.height)
    rate = min(film.fps or RATE, RATE)
    if clip.start >= film.duration:
        return 1.0, iter(())
    end = min(clip.end or film.duration, clip.start + SECONDS)
    shown_frames = iter_frames(
        clip.path, clip.start, end, fps=rate, size=_size(height, width), crop=crop
    )
    return rate, (frame for _, frame in shown_frames)


def _size(height: int, width: int) -> tuple[int, int]:
    """Both even, as H.264 wants them."""
    zoom = min(1.0, SIDE / max(height, width))
    return max(2, round(height * zoom / 2) * 2), max(2, round(width * zoom / 2) * 2)


def _small(picture: np.ndarray) -> np.ndarray:
    height, width = _size(*picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
