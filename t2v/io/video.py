"""Writing video files and pictures, and reading ours; `t2v.footage` reads anybody's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from t2v.errors import UserError
from t2v.footage.containers import Unreadable, opened, opened_picture, video_stream
from t2v.io.files import complete
from t2v.io.formats import Format, format_of
from t2v.io.text_files import parse_json

if TYPE_CHECKING:  # few videos have one
    from t2v.io.sound import Sound

# where the recipe stands in a video; remuxing drops keys that are not of the format, the first
RECIPE_KEYS = ("t2v_recipe", "comment")
ENLARGED = "enlarged"  # in a recipe: how many times since its film was made
MARK = "t2v"  # in a picture: who wrote it
BT709 = 1  # its number in ITU-T H.273 for primaries, transfer and matrix


def write_video(
    path: Path,
    frames: np.ndarray | Iterable[np.ndarray],
    fps: float | Fraction,
    recipe: dict[str, Any] | None = None,
    sound: Sound | None = None,
) -> None:
    """Write a video (BT.709) under a temporary name, then rename it.

    Args:
        path: the file to write, whose ending is one of `FORMATS`; its folder must exist.
        frames: `t h w c`, uint8 RGB, or pieces of such frames that follow one another.
        fps: frames a second, kept exactly: 7.5 stays 7.5.
        recipe: anything JSON can hold; `read_recipe` gives it back.
        sound: the sound track.

    Raises:
        UserError: no frames, an odd height or width, another ending, or a place that cannot be
            written.
    """
    pieces = iter([frames] if isinstance(frames, np.ndarray) else frames)
    first = next(pieces, np.empty((0, 0, 0, 3), np.uint8))
    check_size(*first.shape[:3])
    height, width = first.shape[1:3]
    with video_writer(path, height, width, fps, recipe, sound) as add:
        for piece in chain((first,), pieces):
            add(piece)


@contextmanager
def video_writer(
    path: Path,
    height: int,
    width: int,
    fps: float | Fraction,
    recipe: dict[str, Any] | None = None,
    sound: Sound | None = None,
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that adds frames to a video, which is at `path` when the block ends.

    Equal frames give an equal file, however many are added at a time. For the arguments and
    errors, see `write_video`; `check_size` first.
    """
    kind = format_of(path)
    with (
        completed(path) as partial,
        av.open(partial, "w", format=kind.container, options=kind.muxing) as file,
    ):
        if recipe is not None:
            file.metadata.update(dict.fromkeys(RECIPE_KEYS, json.dumps(recipe)))
        rate = Fraction(fps).limit_denominator(1001)  # 23.976 too comes back as it went in
        stream: Any = file.add_stream(kind.codec, rate=rate, options=kind.options)
        stream.height, stream.width, stream.pix_fmt = height, width, kind.pixels
        context = stream.codec_context
        # Players guess the matrix of an untagged file from its size, and colours shift.
        context.colorspace = context.color_primaries = context.color_trc = BT709

        track = None if sound is None else _track(file, sound, kind)

        def add(frames: np.ndarray) -> None:
            for array in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
                file.mux(stream.encode(frame.reformat(format=kind.pixels, dst_colorspace="ITU709")))

        yield add
        file.mux(stream.encode())
        if sound is not None and track is not None:
            _add_sound(file, track, sound)


def _track(file: Any, sound: Sound, kind: Format) -> Any:
    """A stream for the sound: all have to be there before the first picture."""
    layout = {1: "mono", 2: "stereo"}[len(sound.samples)]
    rate = max(kind.rates) if kind.rates and sound.rate not in kind.rates else sound.rate
    return file.add_stream(kind.sound, rate=rate, layout=layout)


def _add_sound(file: Any, track: Any, sound: Sound) -> None:
    samples = np.ascontiguousarray(sound.samples, dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(samples, "fltp", layout=track.layout.name)
    frame.sample_rate, frame.time_base, frame.pts = sound.rate, Fraction(1, sound.rate), 0
    file.mux(track.encode(frame))
    file.mux(track.encode())


def rewrite_recipe(path: Path, recipe: dict[str, Any]) -> None:
    """Give a video of `write_video` another recipe; pictures and sound are copied as they are.

    Raises:
        UserError: the file cannot be read or its place not be written.
    """
    kind = format_of(path)
    with (
        completed(path) as partial,
        opened(path) as old,
        av.open(partial, "w", format=kind.container, options=kind.muxing) as new,
    ):
        new.metadata.update(dict.fromkeys(RECIPE_KEYS, json.dumps(recipe)))
        streams = {
            each.index: new.add_stream_from_template(each)
            for each in (video_stream(path, old), *old.streams.audio)
        }
        for packet in old.demux([old.streams[index] for index in streams]):
            if packet.dts is not None:  # the last one is an empty mark
                packet.stream = streams[packet.stream.index]
                new.mux(packet)


def check_size(num_frames: int, height: int, width: int) -> None:
    """Raise UserError for what no video of ours can hold: empty, or with an odd side."""
    if min(num_frames, height, width) < 1:
        raise UserError(f"{num_frames} frames of {height}x{width}: there is nothing to write.")
    if height % 2 or width % 2:
        raise UserError(
            f"{height}x{width}: yuv420p halves the colours, so height and width must be even. "
            f"Nearest: {height + height % 2}x{width + width % 2}."
        )


def read_video(path: Path) -> tuple[np.ndarray, Fraction]:
    """The frames of a video file, `t h w c` uint8 RGB, and its frames a second.

    Raises:
        UserError: the file is not there, is no video, is broken or has no frames.
    """
    with opened(path) as file:
        stream = video_stream(path, file)
        frames, rate = list(_decoded(path, file, stream)), stream.average_rate
    if not frames or rate is None:
        raise Unreadable(path, "no frames")
    return np.stack(frames), rate


def video_frames(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video file, each `h w c` uint8 RGB.

    Raises:
        UserError: see `read_video`; of no frames it yields none.
    """
    with opened(path) as file:
        yield from _decoded(path, file, video_stream(path, file))


def _decoded(path: Path, file: Any, stream: Any) -> Iterator[np.ndarray]:
    shape = None
    try:
        for each in file.decode(stream):
            frame = each.to_ndarray(format="rgb24")
            if shape not in (None, frame.shape):
                raise Unreadable(path, "frames of several sizes")
            shape = frame.shape
            yield frame
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise Unreadable(path, "damaged", str(error)) from error


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe that `write_video` put into a video.

    Raises:
        UserError: the file cannot be read or carries no recipe.
    """
    whose = "Only files written by `t2v sample` do; sharing sites and editors remove it."
    try:
        with opened(path) as file:
            text = _recipe_text(file.metadata)
    except Unreadable as error:
        why = f"{error.fault}{f', {error.detail}' if error.detail else ''}"
        raise UserError(
            f"{path}: cannot be read as a video ({why}): carries no recipe. {whose}"
        ) from error
    if text is None:
        raise UserError(f"{path}: carries no recipe. {whose}")
    return parse_json(text, f"{path}: its recipe is damaged")


def _recipe_text(metadata: dict[str, str]) -> str | None:
    known = {name.lower(): text for name, text in metadata.items()}  # Matroska writes capitals
    own, comment = (known.get(key) for key in RECIPE_KEYS)
    # a comment may be anybody's words
    return own or (comment if comment and comment[0] == "{" and '"prompt"' in comment else None)


def contact_sheet(
    videos: Iterable[np.ndarray], captions: Sequence[str] | None = None, columns: int = 8
) -> Image.Image:
    """One row a video: `columns` frames spread from the first to the last, below its caption.

    Args:
        videos: each `t h w c` uint8.
        captions: one line of text for each video, which is then enlarged by a whole number to
            leave room for it; without them frames are shown as they are.
    """
    rows = [_strip(frames, columns) for frames in videos]
    if captions is not None:
        rows = [_captioned(*pair) for pair in zip(rows, captions, strict=True)]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def shown(count: int, columns: int = 8) -> list[int]:
    """The numbers of the frames, of `count`, that a row of a contact sheet shows."""
    return np.linspace(0, count - 1, min(columns, count)).round().astype(int).tolist()


def _strip(frames: np.ndarray, columns: int) -> Image.Image:
    return Image.fromarray(rearrange(frames[shown(len(frames), columns)], "t h w c -> h (t w) c"))


def _captioned(strip: Image.Image, caption: str) -> Image.Image:
    zoom = max(1, 128 // strip.height)
    strip = strip.resize((strip.width * zoom, strip.height * zoom), Image.Resampling.NEAREST)
    row = Image.new("RGB", (strip.width, strip.height + 20), "white")
    row.paste(strip, (0, 20))
    ImageDraw.Draw(row).text((4, 4), caption, fill="black", font=ImageFont.load_default(12))
    return row


def save_image(path: Path, image: Image.Image, recipe: dict[str, Any] | None = None) -> None:
    """Write an image as PNG under a temporary name, then rename it.

    Args:
        recipe: anything JSON can hold, kept in the file under the first of `RECIPE_KEYS`.
    """
    about = PngInfo()
    about.add_text("Software", MARK)
    if recipe is not None:
        about.add_text(RECIPE_KEYS[0], json.dumps(recipe))
    with completed(path) as partial:
        image.save(partial, format="PNG", pnginfo=about)


def read_about(path: Path) -> dict[str, Any]:
    """The texts in a picture by their names.

    Raises:
        UserError: it is not there or no picture.
    """
    with opened_picture(path) as image:
        return {str(name): value for name, value in image.info.items()}


def is_ours(path: Path) -> bool:
    """Return whether `save_image` or `t2v.io.gif` wrote this picture; False if it is unreadable."""
    try:
        about = read_about(path)
    except UserError:
        return False
    told = about.get("Software") or about.get("comment")
    return told in (MARK, MARK.encode())


def shape_of(path: Path) -> tuple[int, int, int]:
    """Return the number of frames that decode from a video of ours, their height and width.

    Raises:
        UserError: it is broken, or has no frames.
    """
    with opened(path) as file:
        stream = video_stream(path, file)
        try:
            count = sum(1 for _ in file.decode(stream))
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise Unreadable(path, "damaged", str(error)) from error
        return count, stream.height, stream.width


@contextmanager
def completed(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` when all is written, and vanishes when it is not.

    Raises:
        UserError: the place cannot be written.
    """
    try:
        with complete(path) as partial:
            yield partial
    except (OSError, av.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be written ({reason}). Choose another output.") from error
