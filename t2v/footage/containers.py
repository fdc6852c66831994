"""Opening of media: regular files of known formats alone, and no file that they refer to."""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
from PIL import Image

from t2v.errors import UserError

# FFmpeg would also play text files (`tty`) and fetch what a playlist names (`hls`, `concat`).
_OPEN = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,mpegvideo,flv,"
    "asf,ogg,mxf,dv,h264,hevc,m4v,ivf,y4m,yuv4mpegpipe,apng,webp",
    "protocol_whitelist": "file",
}
_PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "GIF")  # Pillow would hand EPS to ghostscript
MAX_PIXELS = 2**26  # of one picture: 8192x8192, 200 MB as RGB
TOO_LARGE = "too large"
_NOT_VIDEO = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails


class Unreadable(UserError):
    """A file, or the rest of one, that gives no frames; `fault` is the reason in a word or two."""

    def __init__(self, path: Path, fault: str, detail: str = "") -> None:
        self.fault, self.detail = fault, detail
        super().__init__(
            f"{path}: {fault}{f' ({detail})' if detail else ''}. "
            "Give a video file that plays, or leave this one out."
        )

    def __reduce__(self) -> tuple[Any, ...]:  # exceptions forget their arguments in a pickle
        return _unreadable, (self.fault, self.detail, str(self))


def _unreadable(fault: str, detail: str, text: str) -> Unreadable:
    error = Unreadable(Path(), fault, detail)
    error.args = (text,)
    return error


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """Open the container of a media file.

    Raises:
        Unreadable: it is empty, a folder, a pipe or a device, or not a video.
        UserError: there is no such file, or no permission to read it.
    """
    path = Path(path)
    require_file(path)
    try:
        # absolute: a path can then never be read as the name of a protocol
        container = av.open(path.absolute(), options=_OPEN, metadata_errors="ignore")
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it. Change its permissions.") from error
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(path, "not a video", why) from error
    with container:
        yield container


@contextmanager
def opened_text(text: str, kind: str) -> Iterator[Any]:
    """Open a text as a container of one format, such as subtitles; it can name no other file.

    Raises:
        Unreadable: it is not of that format.
    """
    try:
        container = av.open(io.BytesIO(text.encode("utf-8", errors="replace")), format=kind)
    except (av.FFmpegError, ValueError) as error:
        raise Unreadable(Path(kind), f"not {kind}", str(error)) from error
    with container:
        yield container


def require_file(path: Path) -> None:
    """Raise Unreadable or UserError unless `path` is a regular file that is not empty."""
    try:
        facts = path.stat()
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}).") from error
    if not stat.S_ISREG(facts.st_mode):  # a pipe or /dev/zero would never end
        raise Unreadable(path, "not a file", "a folder, a pipe or a device")
    if facts.st_size == 0:
        raise Unreadable(path, "empty file")


def video_stream(path: Path, container: Any) -> Any:
    """The stream that players show, the one marked as default or the first, with one thread.

    Raises:
        Unreadable: there is none or only a cover picture, its codec is unknown, or its frames have
            more than `MAX_PIXELS`.
    """
    streams = container.streams.video
    if not streams:
        raise Unreadable(path, "no video stream", f"{len(container.streams.audio)} of sound")
    found = [each for each in streams if not each.disposition & _NOT_VIDEO]
    if not found:
        raise Unreadable(path, "cover picture, no video")
    known = [each for each in found if each.codec_context is not None]
    if not known:
        raise Unreadable(path, "unknown codec")
    marked = [each for each in known if each.disposition & av.stream.Disposition.default]
    chosen = (marked or known)[0]
    _require_size(path, chosen.codec_context.width, chosen.codec_context.height)
    chosen.codec_context.thread_count = 1
    return chosen


def _require_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Unreadable(path, TOO_LARGE, f"{width}x{height}, at most {MAX_PIXELS:,} pixels")


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """Open a still image, not yet decoded.

    Raises:
        Unreadable: it is empty, not a regular file, not an image, or has over `MAX_PIXELS`.
        UserError: there is no such file.
    """
    require_file(path)
    try:
        image = Image.open(path, formats=_PICTURES)
    except (OSError, ValueError, SyntaxError) as error:
        raise Unreadable(path, "not an image", str(error)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\d+", str(error))  # Pillow's own limit comes before ours
        count = f"{int(found[0]):,} pixels, " if found else ""
        raise Unreadable(path, TOO_LARGE, f"{count}at most {MAX_PIXELS:,}") from error
    with image:
        _require_size(path, image.width, image.height)
        yield image
