"""Decoding of clips to frames of their bucket; runs in workers, so it imports no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open

from t2v.config.data import ClipsConfig
from t2v.data.buckets import Unfit, fit_length, fit_size
from t2v.data.dropped import NO_FILE, OTHER_FILE
from t2v.errors import UserError
from t2v.footage.containers import Unreadable
from t2v.footage.frames import Probe, iter_frames, probe
from t2v.footage.still import read_picture
from t2v.io.addresses import address_of
from t2v.io.files import file_sha256
from t2v.io.manifest import IMAGE_SUFFIXES, Clip
from t2v.io.stores import Missing
from t2v.io.workers import Failure, Limits, Pool, Processes
from t2v.io.working_copies import AT_ONCE, at_hand

VERSION = 2  # of the frames of a clip: raise it when pixels change, so that no cache is stale


@dataclass(frozen=True)
class Transform:
    """The treatment of a clip; equal transforms of equal files give equal frames."""

    fps: float
    sizes: tuple[tuple[int, int], ...]  # height, width
    lengths: tuple[int, ...]
    sampling: str
    max_upscale: float
    max_repeat: float
    interlaced: str = "deinterlace"  # as `iter_frames` reads unless asked

    @classmethod
    def of(
        cls, config: ClipsConfig, sizes: tuple[tuple[int, int], ...], lengths: tuple[int, ...]
    ) -> Transform:
        """Take over settings whose `fps` is filled in."""
        assert config.fps is not None
        checks = config.max_upscale, config.max_repeat, config.interlaced
        return cls(config.fps, sizes, lengths, config.sampling, *checks)


def read_clip(clip: Clip, transform: Transform | None) -> np.ndarray:
    """Read the frames of a clip in its bucket, `t h w c` uint8: 4k+1 of a video, one of an image.

    Scaled with a filter that averages (no aliasing), cropped around the middle, at `fps` by the
    timestamps, or spread over the whole clip for `sparse` sampling. A rendered clip is read as it
    is; its `transform` may be None.

    Raises:
        Unfit: the clip fits no bucket, or is not as its row says.
        UserError: the file cannot be read.
    """
    if clip.is_rendered:
        return read_rendered(clip)
    assert transform is not None
    path = Path(clip.path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _read_image(clip, transform)
    film = probe(path)
    if film.hdr:
        raise Unfit(f"HDR: {film.hdr} would come out with wrong colours")
    if film.interlaced and transform.interlaced == "drop":
        raise Unfit("interlaced: its frames show two moments, and interlaced=drop")
    crop = crop_of(clip)
    width, height = crop[2:] if crop else (film.width, film.height)
    size = fit_size(height, width, transform.sizes, transform.max_upscale)
    still = film.num_frames == 1
    rate, wanted = (None, 1) if still else _sampling(clip, film, transform)
    weave = transform.interlaced == "deinterlace"
    frames = iter_frames(
        path, clip.start, clip.end, fps=rate, size=size, crop=crop, deinterlace=weave
    )
    video = [frame for _, frame in islice(frames, wanted)]
    if not video:
        raise Unfit(f"empty: no frame is shown from {clip.start:g} s on")
    if still:
        return video[0][None]
    return np.stack(video[: fit_length(len(video), transform.lengths)])


def readers(config: ClipsConfig, count: int) -> Pool:
    """Isolated workers that read media, for `read_clips`, at most `count`.

    A file that crashes its decoder or takes more than `seconds_per_clip` or `gigabytes_per_worker`
    costs nothing but itself.
    """
    limits = Limits(config.seconds_per_clip, config.gigabytes_per_worker)
    return Pool(Processes(_frames_or_reason, limits), min(config.workers, count))


def read_clips(
    clips: Sequence[Clip], transform: Transform, workers: Pool
) -> Iterator[tuple[int, np.ndarray | str]]:
    """Yield each clip's number with its frames, or the reason why there are none, in order."""
    items = ((clip, transform) for clip in _at_hand(clips))
    for number, result in workers.results(items, count=len(clips), in_order=True):
        if isinstance(result, Failure):
            yield number, f"{result.kind}: {result.reason}"
        else:
            yield number, result


def _at_hand(clips: Sequence[Clip]) -> Iterator[Clip]:
    """The clips, whose files are fetched ahead of their turn where they lie at addresses.

    Workers see files of this machine alone: they know no network, and their time is for decoding.
    """
    if not any(map(_is_away, clips)):
        yield from clips
        return
    turns: deque[tuple[Clip, Future[None]]] = deque()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for clip in clips:
            turns.append((clip, pool.submit(_fetch, clip.path)))
            if len(turns) > AT_ONCE:
                yield _arrived(*turns.popleft())
        while turns:
            yield _arrived(*turns.popleft())


def _is_away(clip: Clip) -> bool:
    return address_of(clip.path) is not None


def _fetch(path: str) -> None:
    with suppress(Missing):  # the reader finds that out
        at_hand(path)


def _arrived(clip: Clip, fetched: Future[None]) -> Clip:
    fetched.result()
    return clip


def _fault(clip: Clip) -> str:
    """The reason why a file that came from an address, unseen before, is not that of its row."""
    if not (_is_away(clip) and clip.sha256):
        return ""
    if not Path(clip.path).is_file():
        return NO_FILE
    return "" if file_sha256(Path(clip.path)) == clip.sha256 else OTHER_FILE


def file_hashes(paths: Sequence[str], threads: int) -> dict[str, str]:
    """Return the SHA-256 of every file that can be read, by its path."""
    with ThreadPoolExecutor(threads) as pool:
        return {p: found for p, found in zip(paths, pool.map(_hash, paths), strict=True) if found}


def _hash(path: str) -> str | None:
    try:
        _fetch(path)
        if not Path(path).is_file():  # reading a pipe might never end
            return None
        return file_sha256(Path(path))
    except OSError:
        return None


def _frames_or_reason(item: tuple[Clip, Transform]) -> np.ndarray | str:
    try:
        return _fault(item[0]) or read_clip(*item)
    except Unreadable as error:
        return ": ".join(filter(None, (error.fault, error.detail)))
    except UserError as error:
        return f"unreadable: {error}"
    except Unfit as error:
        return str(error)


def _sampling(clip: Clip, film: Probe, transform: Transform) -> tuple[float, int]:
    """The rate to read a video at, and the number of frames to read."""
    seconds = min(clip.end or film.duration, film.duration) - clip.start
    if seconds <= 0:
        raise Unfit(
            f"empty: it starts at {clip.start:g} s and the file ends at {film.duration:g} s"
        )
    if transform.sampling == "sparse":
        wanted = fit_length(int(seconds * film.fps + 0.01), transform.lengths)
        return wanted / seconds, wanted
    if transform.fps > film.fps * transform.max_repeat:
        raise Unfit(
            f"too slow: {film.fps:.3g} frames/s are too few for {transform.fps:g}, "
            f"max_repeat is {transform.max_repeat:g}"
        )
    return transform.fps, fit_length(int(seconds * transform.fps + 0.01), transform.lengths)


def crop_of(clip: Clip) -> tuple[int, int, int, int] | None:
    """`left, top, width, height` in pixels as shown, where curation found bars around the film."""
    crop = clip.extra.get("crop")
    return tuple(crop) if crop else None


def read_rendered(clip: Clip) -> np.ndarray:
    """The frames of a clip of `t2v world`, `t h w c` uint8.

    Raises:
        UserError: its shard does not hold it.
    """
    try:
        with safe_open(at_hand(clip.path), "np") as shard:
            frames: np.ndarray = shard.get_slice("video")[clip.extra.get("index")]
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{clip.path} does not hold clip {clip.extra.get('index')} of its manifest ({error}). "
            "Render the folder again with `t2v world`."
        ) from error
    return frames


def _read_image(clip: Clip, transform: Transform) -> np.ndarray:
    image = Image.fromarray(read_picture(Path(clip.path)))
    if crop := crop_of(clip):
        left, top, width, height = crop
        image = image.crop((left, top, left + width, top + height))
    height, width = fit_size(image.height, image.width, transform.sizes, transform.max_upscale)
    return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS))[None]
