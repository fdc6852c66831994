"""The files of pictures, clips and masks that settings name: hashed, read and fitted.

What is read is read by a worker, so this imports no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2v.config.sampling import REFERENCES, SampleConfig
from t2v.errors import UserError
from t2v.footage.containers import TOO_LARGE, Unreadable, require_file
from t2v.footage.fitting import (
    Fit,
    as_mask,
    fitted,
    is_picture,
    read_film,
    shown_part,
    size_shown,
)
from t2v.footage.frames import Probe, probe
from t2v.footage.still import read_picture
from t2v.io.files import file_sha256
from t2v.io.workers import Failure, work

logger = logging.getLogger(__name__)

SECONDS, GIGABYTES = 300.0, 4.0  # that the reading of one video's files may take
KINDS = {
    "image": "Give a picture: PNG, JPEG, WebP, BMP or GIF.",
    "last_image": "Give a picture: PNG, JPEG, WebP, BMP or GIF.",
    REFERENCES: "Give pictures: PNG, JPEG, WebP, BMP or GIF.",
    "video": "Give a video that plays, or a picture for one frame.",
    "mask": "Give a picture, white where the clip is made anew, or a video of such.",
}
FAULTS = {
    TOO_LARGE: "Make it smaller first.",
    "damaged": "Stop before that with video_end=SECONDS, or give a video that plays.",
}


def require_files(config: SampleConfig) -> None:
    """Raise `UserError` where a file that settings name is missing, empty or no regular one."""
    for name, path in _paths(config).items():
        with _named(name, path):
            require_file(path)


def hashes(config: SampleConfig) -> dict[str, str]:
    """The SHA-256 of each file that settings name.

    Raises:
        UserError: a file is missing or no regular one.
    """
    require_files(config)
    found = {}
    for name, path in _paths(config).items():
        with _named(name, path):
            try:
                found[name] = file_sha256(path)
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    return found


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The files of a video, read and fitted to its size.

    Args:
        frames: `t h w c` uint8 by the setting, one frame of a picture; a mask has `c` 1.
        rate: frames a second of the clip as it is, where there is one.
        total: frames that the clip has at the rate asked for, or more than were asked for.
        warnings: what looks wrong with the files, which can be read all the same.
    """

    frames: dict[str, np.ndarray]
    rate: float | None = None
    total: int = 0
    warnings: tuple[str, ...] = ()


def read(config: SampleConfig, most: int) -> Clip:
    """Read what settings name, in a process of its own: files may crash or hang their decoder.

    Args:
        config: with its height, width and fps filled in.
        most: frames of the clip to read.

    Raises:
        UserError: a file is not of its kind, or the mask not of the size of the clip; nothing
            would be made anew.
    """
    ((_, found),) = work(_read, [(config, most)], workers=1, seconds=SECONDS, memory_gb=GIGABYTES)
    if isinstance(found, Failure):
        names = " ".join(f"{name}={path}" for name, path in config.files.items())
        raise UserError(f"{names}: cannot be read ({found.reason}). Give other files.")
    for what in found.warnings:
        logger.warning("%s", what)
    return found


def _read(asked: tuple[SampleConfig, int]) -> Clip:
    """Read the files of a video, in a worker."""
    config, most = asked
    assert config.height is not None and config.width is not None and config.fps is not None
    size, files = (config.height, config.width), _paths(config)
    fit: Fit = "crop" if config.fit == "crop" else "pad"
    frames: dict[str, np.ndarray] = {}
    for name in ("image", "last_image"):
        if name in files:
            with _named(name, files[name]):
                frames[name] = fitted(read_picture(files[name]), size, fit)[None]
    for name in (name for name in files if name.startswith(REFERENCES)):
        with _named(name, files[name]):
            frames[name] = fitted(read_picture(files[name]), size, fit)[None]
    if "video" not in files:
        return Clip(frames=frames)
    path = files["video"]
    start, end = config.video_start, config.video_end
    rate = None if config.interpolate else config.fps
    with _named("video", path):
        shown = size_shown(path)
        frames["video"], damaged = read_film(
            path, fps=rate, size=size, fit=fit, most=most, start=start, end=end
        )
        film = None if is_picture(path) else probe(path)
    count = len(frames["video"])
    if "mask" in files:
        frames["mask"] = _read_mask(files["mask"], path, shown, config, count)
    if config.fit == "outpaint":
        frames["mask"] = _with_bars(frames.get("mask"), shown, size)
    if "mask" in frames and not frames["mask"].any():
        raise UserError(_nothing_white(config))
    total = count
    if film is not None and count == most:
        end = min(film.duration, config.video_end or film.duration)
        total = max(count, round((end - config.video_start) * (rate or film.fps)))
    warnings = [] if film is None else list(_damage(path, film, damaged, count))
    if "mask" in frames and frames["mask"].all():
        warnings.append(
            f"mask={config.mask}: is white everywhere, so nothing of video={path} is kept."
        )
    rate = film.fps if film else None
    return Clip(frames=frames, rate=rate, total=total, warnings=tuple(warnings))


def _damage(path: Path, film: Probe, damaged: int, count: int) -> Iterator[str]:
    """Say what is wrong with a clip of which `count` frames were read, `damaged` ones too."""
    if film.declared_frames > film.stored_frames:
        yield (
            f"video={path}: the file is cut off: {film.stored_frames} of its "
            f"{film.declared_frames} frames are there."
        )
    if damaged:
        yield (
            f"video={path}: {damaged} of the {count} frames that are used cannot be read whole, "
            "and those after them may show it. Choose others with video_start and video_end, or "
            "give a video that plays."
        )


def _read_mask(
    path: Path, video: Path, shown: tuple[int, int], config: SampleConfig, count: int
) -> np.ndarray:
    """The mask of a clip of `count` frames, `1|count h w 1`: 255 where it is made anew, else 0."""
    assert config.height is not None and config.width is not None
    with _named("mask", path):
        own = size_shown(path)
        if own != shown:
            raise UserError(
                f"{path}: is {own[1]}x{own[0]} and video={video} {shown[1]}x{shown[0]} (width x "
                "height). Give a mask of the size of the clip."
            )
        masks, _ = read_film(
            path,
            fps=None if config.interpolate else config.fps,
            size=(config.height, config.width),
            fit="crop" if config.fit == "crop" else "pad",
            most=count,
            start=0.0 if is_picture(path) else config.video_start,
            end=config.video_end,
        )
        if len(masks) not in (1, count):
            raise UserError(
                f"{path}: has {len(masks)} frames and video={video} {count} at {config.fps:g} fps. "
                "Give one picture, or a mask as long as the clip."
            )
    return as_mask(masks)[..., None]


def _with_bars(
    mask: np.ndarray | None, shown: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """A mask that is white where padding is too."""
    top, left, height, width = shown_part(shown, size)
    whole = np.full((1 if mask is None else len(mask), *size, 1), 255, np.uint8)
    inside = np.s_[:, top : top + height, left : left + width]
    whole[inside] = 0 if mask is None else mask[inside]
    return whole


def _nothing_white(config: SampleConfig) -> str:
    if config.mask is None:
        return (
            f"fit=outpaint: video={config.video} has the shape of the video, so nothing is left to "
            f"paint around it. Give another height or width than {config.height}x{config.width}."
        )
    return (
        f"mask={config.mask}: is black everywhere, so nothing would be made anew. Make white what "
        "should change."
    )


def _paths(config: SampleConfig) -> dict[str, Path]:
    return {name: Path(path) for name, path in config.files.items()}


@contextmanager
def _named(name: str, path: Path) -> Iterator[None]:
    """Begin what goes wrong with a file with the setting that names it."""
    try:
        yield
    except Unreadable as error:
        what = f"{error.fault}{f' ({error.detail})' if error.detail else ''}"
        do = FAULTS.get(error.fault, KINDS[name.partition("[")[0]])
        raise UserError(f"{name}={path}: {what}. {do}") from error
    except UserError as error:
        raise UserError(f"{name}={error}") from error
