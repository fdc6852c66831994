"""Footage built in code that is unusual, or broken in every usual way."""

import json
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from t2v.video import write_video


def moving(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth frames that brighten with time, `t h w c`."""
    ramp = np.linspace(20, 200, count)[:, None, None, None]
    across = np.linspace(0, 40, width)[None, None, :, None]
    tint = np.random.default_rng(seed).integers(0, 15, 3)[None, None, None, :]
    return (np.zeros((count, height, width, 3)) + ramp + across + tint).astype(np.uint8)


def turned(path: Path) -> None:
    """Write a quarter turn clockwise into the display matrix of an mp4."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    unit = 0x10000
    data[place : place + 36] = struct.pack(">9i", 0, unit, 0, -unit, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(data)


def encode(path: Path, frames: np.ndarray, times: list[int], pixels: str = "yuv420p") -> None:
    """Write `frames` shown at `times`, in eighths of a second."""
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=8, options={"bf": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 8)
        for time, array in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = time, Fraction(1, 8)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def sound(path: Path) -> None:
    """Write an mp4 with a second of silence and no picture."""
    with av.open(path, "w") as file:
        stream = file.add_stream("aac", rate=8000)
        for first in range(0, 8000, 1000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1000), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 8000, first
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


@pytest.fixture
def awkward(media: Path) -> Path:
    """A manifest of good, unusual and broken files, each captioned; the name says what is wrong."""
    folder = media
    whole = (folder / "0.mp4").read_bytes()
    broken = {
        "truncated": whole[: len(whole) * 2 // 5],
        "random": bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)),
        "empty": b"",
        "text": b"this is no video\n" * 50,
    }
    for name, content in broken.items():
        (folder / f"{name}.mp4").write_bytes(content)
    sound(folder / "sound.mp4")
    encode(folder / "turned.mp4", moving(12, 80, 48), list(range(12)))
    turned(folder / "turned.mp4")
    encode(folder / "variable.mp4", moving(9, 48, 80), [0, 1, 2, 3, 6, 7, 8, 9, 12])
    encode(folder / "ten_bit.mp4", moving(12, 48, 80), list(range(12)), "yuv420p10le")
    encode(folder / "single.mp4", moving(1, 48, 80), [0])
    write_video(folder / "small.mp4", moving(12, 16, 16), 8)
    write_video(folder / "slow.mp4", moving(12, 48, 80), 2)
    names = [*broken, "sound", "turned", "variable", "ten_bit", "single", "small", "slow", "gone"]
    rows = [{"path": f"{name}.mp4", "caption": "a red ball"} for name in [*names, "0", "1"]]
    rows += [
        {"path": "2.mp4", "caption": ""},
        {"path": "3.mp4", "caption": "a red ball " * 9},
        {"path": "4.mp4", "caption": "a red ball", "sha256": "0" * 64},
        {
            "path": "5.mp4",
            "caption": "a red ball",
            "dropped": "motion",
            "reason": "it stands still",
        },
        {"path": "5.mp4", "caption": "a red ball", "start": 9.0},
    ]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
