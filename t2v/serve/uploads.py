"""Pictures and clips from clients: decoded in a process that can be killed, and written anew."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from t2v.errors import UserError
from t2v.serve.aside import aside
from t2v.serve.checks import wrong
from t2v.serve.errors import Refused

# the fields that take a file, and the settings that name a picture or a clip of theirs
FILES: dict[str, dict[str, str]] = {
    "input_reference": {"picture": "image", "clip": "video"},
    "last_reference": {"picture": "last_image"},
    "subject_reference": {"picture": "reference_images"},
    "mask": {"picture": "mask", "clip": "mask"},
}
ENDINGS = {"picture": ".png", "clip": ".mp4"}  # of what is written anew
MOST_PIXELS = 5e8  # of all frames of a clip: 240 of 1080p, 540 of 720p
MOST_TICKS = 10**6  # a second: what containers have is less
SECONDS = 60.0  # that decoding may take
LEFT = 3600.0  # seconds after which a file that no job has was left by a server that was killed
_DATA = re.compile(r"data:(image|video)/[\w.+-]+;base64,")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A finished video of the server, which is taken for a file."""

    id: str


Upload = bytes | Reference


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A file of ours that holds what a client sent.

    Args:
        setting: that names it.
        seconds: of a clip; 0 of a picture.
        width: as it is shown, in pixels.
        height: likewise.
    """

    setting: str
    path: Path
    seconds: float
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a file.

    Args:
        seconds: of a clip.
        room: bytes that all files of a server may take.
    """

    seconds: float
    room: float


def upload_of(value: Any, name: str) -> Upload:
    """The bytes of a file that a request holds, or names as `{"image_url": "data:..."}`; or the
    video that it names as `{"id": "video_..."}`.

    Raises:
        Refused: it is neither.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("id"), str):
        return Reference(id=value["id"])
    address = value.get("image_url") if isinstance(value, Mapping) else None
    if not isinstance(address, str):
        raise wrong(name, "is no file, and no object with image_url")
    start = _DATA.match(address)
    if start is None:
        raise wrong(
            name,
            "names an address, and nothing is fetched; send the file, or a data:image/...;base64, "
            "address",
        )
    try:
        return base64.b64decode(address[start.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise wrong(name, "is no base64") from error


def keep(data: bytes | Path, name: str, folder: Path, limits: Limits) -> Kept:
    """Decode a file that a client sent, and write it anew: a picture as PNG, a clip as it plays,
    without loss.

    Args:
        data: its bytes, or a video of ours.

    Raises:
        Refused: it is not what the field takes, or too large.
    """
    if _held(folder) > limits.room:
        raise Refused(
            507,
            "The files that clients sent take all the room there is for them; delete videos that "
            "were made of some.",
            "storage_full",
        )
    path = folder / secrets.token_hex(16)
    raw = path.with_suffix(".upload")
    try:
        if isinstance(data, Path):
            shutil.copyfile(data, raw)
        else:
            raw.write_bytes(data)
        told, fault = aside(partial(_write_anew, raw, limits.seconds, name), path, SECONDS)
    finally:
        raw.unlink(missing_ok=True)
    if fault is None and not isinstance(told, str):
        kind, width, height, seconds = told
        setting = FILES[name].get(kind)
        if setting is not None:
            path = path.with_suffix(ENDINGS[kind])
            return Kept(setting=setting, path=path, width=width, height=height, seconds=seconds)
        told = f"a {kind}"
    for each in folder.glob(f"*{path.name}*"):
        each.unlink()
    raise _refused(name, "unreadable" if fault is not None else told)


def _held(folder: Path) -> int:
    """The bytes that files of a folder take."""
    count = 0
    for each in folder.iterdir():
        with suppress(FileNotFoundError):  # deleted since
            count += each.stat().st_size
    return count


def drop_old(folder: Path, needed: Collection[str]) -> None:
    """Remove files that no job has, and that no request is about to give one."""
    for each in folder.iterdir():
        with suppress(FileNotFoundError):
            if str(each) not in needed and time.time() - each.stat().st_mtime > LEFT:
                each.unlink()


def _refused(name: str, fault: str) -> Refused:
    kinds = FILES[name]
    what = "a PNG, JPEG or WebP file" + (", or a clip that plays" if "clip" in kinds else "")
    if fault == "unreadable":
        words = " or clip" if "clip" in kinds else ""
        message = f"{name} is no picture{words} that can be read; send {what}."
    else:
        message = f"{name} is {fault}; send {what}, or less of it."
    return Refused(400, message, "invalid_image", name)


Told = tuple[str, int, int, float]  # kind, width, height, seconds


def _write_anew(raw: Path, most: float, name: str, path: Path) -> Told | str:
    """Write a picture or clip of ours beside a file, and tell of it; else, say why not."""
    from t2v.footage.containers import TOO_LARGE, Unreadable
    from t2v.footage.fitting import is_picture

    try:
        if is_picture(raw):
            return _write_picture(raw, name == "mask", path.with_suffix(ENDINGS["picture"]))
        return _write_clip(raw, most, path.with_suffix(ENDINGS["clip"]))
    except Unreadable as error:
        return TOO_LARGE if error.fault == TOO_LARGE else "unreadable"
    except UserError:
        return "unreadable"


def _write_picture(raw: Path, is_mask: bool, path: Path) -> Told | str:
    from PIL import Image

    from t2v.footage.fitting import as_mask
    from t2v.footage.still import read_picture
    from t2v.io.video import save_image

    pixels = read_picture(raw)
    if is_mask and not as_mask(pixels[None]).any():
        return "black everywhere, so nothing would be made anew"
    save_image(path, Image.fromarray(pixels))
    return "picture", pixels.shape[1], pixels.shape[0], 0.0


def _write_clip(raw: Path, most: float, path: Path) -> Told | str:
    import av
    import numpy as np

    from t2v.footage.containers import opened, video_stream
    from t2v.footage.frames import iter_shown, probe
    from t2v.io.files import complete

    film = probe(raw)
    if film.duration > most:
        return f"a clip of {film.duration:.1f} s, and {most:g} s are taken"
    pixels = film.width * film.height * film.num_frames
    if pixels > MOST_PIXELS:
        return f"a clip of {pixels:,} pixels in all, and {MOST_PIXELS:,.0f} are taken"
    with opened(raw) as source:
        tick = video_stream(raw, source).time_base or Fraction(1, MOST_TICKS)
    if tick < Fraction(1, MOST_TICKS):
        tick = Fraction(1, MOST_TICKS)
    with (
        complete(path) as unfinished,
        av.open(str(unfinished), "w", format="mp4") as file,
    ):
        options = {"qp": "0", "preset": "ultrafast"}  # without loss
        stream: Any = file.add_stream("libx264rgb", rate=round(film.fps) or 1, options=options)
        stream.height, stream.width, stream.pix_fmt = film.height, film.width, "rgb24"
        stream.time_base = stream.codec_context.time_base = tick
        last = -1
        for second, picture in iter_shown(raw):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.rgb()), format="rgb24")
            last = max(last + 1, round(second / tick))
            frame.pts, frame.time_base = last, tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return "clip", film.width, film.height, film.duration
