"""Files that are given: what is wrong with them is said, with what to do."""

import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.video import write_video
from t2v.sampling import reading


@pytest.fixture
def clip(tmp_path) -> bytes:
    """The bytes of a clip of 24 frames, whose table of frames comes first."""
    tiles = np.random.default_rng(0).integers(0, 255, (6, 10, 3), dtype=np.uint8)
    picture = tiles.repeat(8, 0).repeat(8, 1)
    frames = np.stack([np.roll(picture, 3 * number, 1) for number in range(24)])
    write_video(tmp_path / "whole.mp4", frames, 8)
    return (tmp_path / "whole.mp4").read_bytes()


def read(path: Path, name: str = "video", most: int = 99, **settings: object) -> reading.Clip:
    """What a worker reads of one file."""
    config = SampleConfig(height=32, width=48, fps=8, **{name: str(path)}, **settings)
    return reading._read((config, most))


def test_a_whole_clip_is_not_warned_of(clip, tmp_path):
    found = read(tmp_path / "whole.mp4")
    assert (len(found.frames["video"]), found.warnings) == (24, ())


def test_a_clip_that_is_cut_off_says_how_many_frames_are_there(clip, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip[: len(clip) * 6 // 10])
    found = read(path, most=5)
    (said,) = found.warnings
    assert "15 of its 24 frames are there" in said and len(found.frames["video"]) == 5
    message = r"damaged \(decoding stops after 1\.38 s, 12 frames of 15.*Stop before .* video_end="
    with pytest.raises(UserError, match=message):
        read(path)
    assert len(read(path, video_end=1.3).frames["video"]) == 11


def test_frames_that_cannot_be_read_whole_are_counted(clip, tmp_path, monkeypatch, caplog):
    path, first = tmp_path / "damaged.mp4", clip.index(b"mdat") + 8
    for share in range(1, 10):  # some places stop the decoder, and some it does not notice
        place = first + (len(clip) - first) * share // 10
        path.write_bytes(clip[:place] + bytes([clip[place] ^ 0x5A]) + clip[place + 1 :])
        with suppress(UserError):
            if read(path).warnings:
                break
    (said,) = read(path).warnings
    assert re.search(": [1-9] of the 24 frames that are used cannot be read whole", said)
    config = SampleConfig(height=32, width=48, fps=8, video=str(path))
    monkeypatch.setattr(reading, "work", lambda function, items, **_: [(0, function(items[0]))])
    reading.read(config, 99)
    assert caplog.messages == [said]


@pytest.mark.parametrize("name", ["image", "last_image", "video"])
def test_a_picture_of_too_many_pixels_is_too_large(name, tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">2I", 30_000, 30_000)  # of the header, whose checksum follows
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    message = r"too large \(900,000,000 pixels, at most 67,108,864\)\. Make it smaller first"
    with pytest.raises(UserError, match=f"^{name}=.*{message}"):
        read(path, name)


def test_a_mask_that_keeps_nothing_is_warned_of(clip, tmp_path):
    Image.new("L", (80, 48), 255).save(tmp_path / "white.png")
    found = read(tmp_path / "whole.mp4", mask=str(tmp_path / "white.png"))
    (said,) = found.warnings
    assert said.startswith(f"mask={tmp_path}/white.png: is white everywhere, so nothing of video=")


@pytest.mark.parametrize(
    ("path", "words"), [("", "it is empty"), ("https://a.org/b.png", "it is an address. Download")]
)
def test_a_name_that_is_none_of_a_file_is_refused(path, words):
    with pytest.raises(UserError, match=f"^image={path}: {words}"):
        SampleConfig(image=path)
