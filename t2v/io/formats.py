"""Encodings of videos, by the ending of their file's name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Format:
    """A container and its encoders, by FFmpeg's names.

    Args:
        pixels: how pictures are stored.
        options: of the encoder of pictures.
        muxing: options of the container.
        sound: the encoder of sound.
        rates: samples a second that it takes; empty: any.
    """

    container: str
    codec: str
    pixels: str
    sound: str
    options: dict[str, str] = field(default_factory=dict)
    muxing: dict[str, str] = field(default_factory=dict)
    rates: tuple[int, ...] = ()


# without use_metadata_tags, only keys that the format knows stay
_TAGS = {"movflags": "+faststart+use_metadata_tags"}
FORMATS = {
    # Without mbtree=0, x264's AVX-512 code reads memory that nobody wrote, and equal frames become
    # other pictures from run to run (seen at 64x64, 96x160 and 240x416 with PyAV 18.1).
    ".mp4": Format(
        container="mp4",
        codec="libx264",
        pixels="yuv420p",
        sound="aac",
        options={"crf": "18", "x264-params": "mbtree=0"},
        muxing=_TAGS,
    ),
    ".webm": Format(
        container="webm",
        codec="libvpx-vp9",
        pixels="yuv420p",
        sound="libopus",
        options={"crf": "20", "cpu-used": "2"},
        muxing={"fflags": "+bitexact"},  # else each file gets a random number of its own
        rates=(48000, 24000, 16000, 12000, 8000),
    ),
    ".mov": Format(
        container="mov",
        codec="prores_ks",
        pixels="yuv422p10le",
        sound="pcm_s16le",
        options={"profile": "3"},  # 422 HQ
        muxing=_TAGS,
    ),
}


def format_of(path: Path) -> Format:
    """The format that the name of a video asks for.

    Raises:
        UserError: another ending.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: videos are written as {', '.join(FORMATS)}. Give such a name.")
    return FORMATS[path.suffix]
