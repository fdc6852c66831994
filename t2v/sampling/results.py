"""Frames, shape and recipe of what `t2v sample` wrote, in the form its name asks for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from t2v.errors import UserError
from t2v.io import video
from t2v.io.text_files import parse_json

if TYPE_CHECKING:  # few videos have one
    from t2v.io.sound import Sound

logger = logging.getLogger(__name__)

PICTURE, GIF, FOLDER = ".png", ".gif", ""  # a folder's name has no dot


class Shown(NamedTuple):
    """The size of a video, and the frames that a contact sheet shows of it, or more."""

    shape: tuple[int, ...]  # t h w
    frames: np.ndarray  # t h w c uint8

    @classmethod
    def of(cls, path: Path) -> Shown:
        """A result that is there already.

        Raises:
            UserError: it is not, or it is damaged.
        """
        passing = Passing((frame[None] for frame in iter_frames(path)), shape_of(path)[0])
        return passing.shown()


class Passing:
    """Pieces of a video on their way to a file.

    Args:
        pieces: frames `t h w c` uint8 that follow one another.
        count: frames of the video, of which those of a contact sheet are kept; None: all are.
    """

    def __init__(self, pieces: Iterable[np.ndarray], count: int | None) -> None:
        self.pieces = iter(pieces)
        self.wanted = None if count is None else set(video.shown(count))
        self.kept: list[np.ndarray] = []
        self.shape: tuple[int, ...] = (0, 0, 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        for piece in self.pieces:
            for number, frame in enumerate(piece, self.shape[0]):
                if self.wanted is None or number in self.wanted:
                    self.kept.append(frame.copy())  # a view would keep the whole piece
            self.shape = (self.shape[0] + len(piece), *piece.shape[1:3])
            yield piece

    def shown(self) -> Shown:
        """The video, of which the rest passes now."""
        for _ in self:
            pass
        return Shown(self.shape, np.stack(self.kept))


def spelled(path: Path) -> str:
    """The value of `output` that stands for a place: a folder ends in a slash."""
    return f"{path}/" if path.suffix == FOLDER else str(path)


def write_result(
    path: Path,
    pieces: Iterable[np.ndarray],
    fps: float,
    recipe: dict[str, Any],
    sound: Sound | None = None,
) -> None:
    """Write pieces of a video, each frames `t h w c` uint8, with their recipe.

    Args:
        pieces: written as they come; a GIF when the last is there.
        sound: only videos have one.

    Raises:
        UserError: the place cannot be written, or the form does not hold such frames.
    """
    match path.suffix:
        case ".png":
            write_picture(path, np.concatenate(list(pieces)), recipe)
        case ".gif":
            _gif().write_gif(path, chain.from_iterable(pieces), fps, recipe)
        case "":
            _folder().write_folder(path, chain.from_iterable(pieces), recipe)
        case _:
            video.write_video(path, pieces, fps, recipe, sound)
            return
    if sound is not None:
        logger.warning("%s: holds no sound, which is left out", path)


def write_sheet(first: Path, videos: Sequence[np.ndarray], captions: Sequence[str]) -> None:
    """Write one picture of all videos, frames `t h w c` uint8 each, beside the first of them."""
    sheet = video.contact_sheet(videos, captions)
    video.save_image(first.resolve().with_suffix(".sheet.png"), sheet)


def _gif() -> ModuleType:
    """The module of GIFs, which few results are."""
    from t2v.io import gif

    return gif


def _folder() -> ModuleType:
    """The module of folders of frames, which few results are."""
    from t2v.io import frame_folder

    return frame_folder


def write_picture(path: Path, frames: np.ndarray, recipe: dict[str, Any]) -> None:
    """Write one frame, `1 h w c` uint8, as a PNG that carries its recipe.

    Raises:
        UserError: the place cannot be written.
    """
    (frame,) = frames
    video.save_image(path, Image.fromarray(frame), recipe)


def check_frames(path: Path, num_frames: int, height: int, width: int, fps: float) -> None:
    """Raise UserError for a size or rate that the form of a result cannot hold."""
    if path.suffix == GIF:
        _gif().check_rate(fps, str(path))
    elif path.suffix not in (PICTURE, FOLDER):
        video.check_size(num_frames, height, width)


def read_frames(path: Path) -> np.ndarray:
    """The frames of a result, `t h w c` uint8.

    Raises:
        UserError: it is not there or damaged.
    """
    match path.suffix:
        case ".png":
            from t2v.footage.still import read_picture  # videos need none

            return read_picture(path)[None]
        case ".gif":
            return _gif().read_gif(path, _gif_rate(path))
        case "":
            return _folder().read_folder(path)
    return video.read_video(path)[0]


def iter_frames(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a result, each `h w c` uint8, and hold one at a time.

    Raises:
        UserError: it is not there or damaged.
    """
    match path.suffix:
        case ".png":
            yield from read_frames(path)
        case ".gif":
            yield from _gif().gif_frames(path, _gif_rate(path))
        case "":
            yield from _folder().folder_frames(path)
        case _:
            yield from video.video_frames(path)


def _gif_rate(path: Path) -> float:
    """The frames a second of a GIF, which counts a picture that stays as one."""
    try:
        fps = float(read_recipe(path)["settings"]["fps"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its recipe says no fps. Make it again.") from error
    if not 0 < fps <= _gif().MOST_FPS:
        raise UserError(f"{path}: its recipe says {fps:g} fps. Make it again.")
    return fps


def read_recipe(path: Path) -> Any:
    """The recipe that a result carries.

    Raises:
        UserError: the file cannot be read or carries no recipe.
    """
    match path.suffix:
        case ".png":
            values = _text_of(path)
        case ".gif":
            values = _gif().read_comment(path)
        case "":
            values = _text_of(_folder().frame_files(path)[0])
        case _:
            return video.read_recipe(path)
    if values is None:
        raise UserError(
            f"{path}: carries no recipe. Only files written by `t2v sample` do; sharing sites and "
            "editors remove it."
        )
    return values


def _text_of(path: Path) -> Any:
    text = video.read_about(path).get(video.RECIPE_KEYS[0])
    return None if text is None else parse_json(text, f"{path}: its recipe is damaged")


def rewrite_recipe(path: Path, recipe: dict[str, Any]) -> None:
    """Give a result another recipe; its frames stay as they are.

    Raises:
        UserError: the file cannot be read or its place not be written.
    """
    match path.suffix:
        case ".png":
            write_picture(path, read_frames(path), recipe)
        case ".gif":
            _gif().rewrite_comment(path, recipe)
        case "":
            rewrite_recipe(_folder().frame_files(path)[0], recipe)
        case _:
            video.rewrite_recipe(path, recipe)


def shape_of(path: Path) -> tuple[int, int, int]:
    """The number of frames that decode from a result, their height and width.

    Raises:
        UserError: it is broken, or has no frames.
    """
    match path.suffix:
        case ".gif":
            return _gif().gif_shape(path, _gif_rate(path))
        case ".png" | "":
            count, (height, width) = 0, (0, 0)
            for frame in iter_frames(path):
                count, (height, width) = count + 1, frame.shape[:2]
            return count, height, width
    return video.shape_of(path)
