"""Footage of every kind comes out upright, undistorted, in true colours and at true speed."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from t2v.errors import UserError
from t2v.footage.containers import Unreadable
from t2v.footage.frames import iter_frames, probe

HALVES = np.zeros((64, 96, 3), np.uint8)
HALVES[:32] = (200, 30, 30)  # red above,
HALVES[32:] = (30, 30, 200)  # blue below


def write(
    path: Path,
    frames,
    rate: int = 10,
    times=None,
    pixels: str = "yuv420p",
    codec: str = "libx264",
    full_range: bool = False,
    aspect: Fraction | None = None,
    trc: int | None = None,
) -> Path:
    """A video file of `frames`, `t h w c` uint8, shown at `times` (in units of 1 / rate)."""
    with av.open(path, "w") as file:
        stream = file.add_stream(codec, rate=rate, options={"crf": "12", "bf": "0"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        context, tick = stream.codec_context, Fraction(1, rate * 100)
        stream.time_base = context.time_base = tick
        context.color_range = 2 if full_range else 1
        context.colorspace = 1
        if trc is not None:
            context.color_trc = trc
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame = frame.reformat(
                format=pixels, dst_colorspace=1, dst_color_range=2 if full_range else 1
            )
            frame.pts = 100 * (number if times is None else times[number])
            frame.time_base = tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def turned(path: Path, degrees: int) -> Path:
    """The same mp4 with a display matrix that turns it clockwise, as telephones write it."""
    unit = 0x10000
    matrix = {
        90: (0, unit, 0, -unit, 0, 0, 0, 0, 0x40000000),
        180: (-unit, 0, 0, 0, -unit, 0, 0, 0, 0x40000000),
    }[degrees]
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    data[place : place + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write(tmp_path / 'it\'s a "film" ä.mp4', [HALVES] * 10)


def test_a_plain_file_is_told_as_it_is(film):
    told = probe(film)
    assert (told.width, told.height, told.num_frames, told.fps) == (96, 64, 10, 10.0)
    assert (told.duration, told.vfr, told.hdr, told.bit_depth) == (1.0, False, "", 8)
    assert (told.codec, told.rotation, told.sample_aspect) == ("h264", 0, 1)


def test_colours_are_the_same_in_full_and_limited_range_and_in_ten_bits(tmp_path, read_frames):
    kinds = {"limited": {}, "full": {"full_range": True}, "ten": {"pixels": "yuv420p10le"}}
    for name, options in kinds.items():
        frames = read_frames(write(tmp_path / f"{name}.mp4", [HALVES] * 3, **options))
        assert frames.shape == (3, 64, 96, 3)
        assert frames.dtype == np.uint8
        assert np.abs(frames[1].astype(int) - HALVES).mean() < 4, name
    assert probe(tmp_path / "ten.mp4").bit_depth == 10
    assert probe(tmp_path / "full.mp4").full_range


def test_a_turned_film_is_shown_upright(film, read_frames):
    told = probe(turned(film, 90))
    assert (told.width, told.height) == (64, 96)
    right, left = read_frames(film)[0][:, 48], read_frames(film)[0][:, 16]
    assert right[48][0] > 150  # clockwise: what was above is on the right
    assert left[48][2] > 150
    assert read_frames(turned(film, 180))[0][8, 48, 2] > 150


def test_wide_pixels_become_square(tmp_path, read_frames):
    path = write(tmp_path / "wide.mp4", [HALVES] * 2, aspect=Fraction(4, 3))
    assert (probe(path).width, probe(path).height) == (128, 64)
    assert read_frames(path).shape == (2, 64, 128, 3)


def test_a_variable_rate_comes_out_at_the_right_speed(tmp_path, read_frames):
    grey = [np.full((32, 32, 3), 20 * number, np.uint8) for number in range(1, 7)]
    path = write(tmp_path / "vfr.mp4", grey, times=[0, 1, 2, 6, 7, 8])
    assert probe(path).vfr
    times = [time for time, _ in iter_frames(path)]
    assert times == pytest.approx([0, 0.1, 0.2, 0.6, 0.7, 0.8])
    levels = read_frames(path, fps=10)[:, 16, 16, 0] / 20
    assert levels.round().tolist() == [1, 2, 3, 3, 3, 3, 4, 5, 6]


def test_a_span_holds_the_frames_of_its_time_and_no_others(tmp_path, read_frames):
    grey = [np.full((32, 32, 3), 4 * number, np.uint8) for number in range(50)]
    path = write(tmp_path / "grey.mp4", grey)
    levels = read_frames(path, 2.0, 3.0)[:, 16, 16, 0] / 4
    assert levels.round().tolist() == [*range(20, 30)]
    assert len(read_frames(path, 2.0, 3.0, fps=4)) == 4


def test_size_covers_and_cuts_and_a_crop_is_cut_first(film, read_frames):
    frames = read_frames(film, size=(16, 16), crop=(10, 0, 40, 32))
    assert frames.shape == (10, 16, 16, 3)
    assert frames[..., 0].mean() > 150  # red only: the crop ends above the blue
    with pytest.raises(UserError, match="not inside 96x64"):
        read_frames(film, crop=(60, 0, 40, 32))


@pytest.mark.parametrize(
    ("content", "fault"), [(b"", "empty file"), (b"just words " * 99, "not a video")]
)
def test_what_is_no_video_is_named(tmp_path, content, fault):
    path = tmp_path / "named.mp4"
    path.write_bytes(content)
    with pytest.raises(Unreadable) as caught:
        probe(path)
    assert caught.value.fault == fault
    with pytest.raises(UserError, match="gone"):
        probe(tmp_path / "gone.mp4")


def test_frames_before_the_damage_are_read_and_the_damage_is_named(tmp_path):
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 255, (40, 64, 64, 3), np.uint8)
    data = write(tmp_path / "noise.mkv", noise).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: len(data) // 2])
    frames = []
    try:
        frames += [frame for _, frame in iter_frames(path)]
    except Unreadable as error:
        assert error.fault == "damaged"
    assert 10 < len(frames) < 40
    assert probe(path).num_frames < 40


def test_hdr_is_told(tmp_path):
    path = write(tmp_path / "pq.mp4", [HALVES] * 2, pixels="yuv420p10le", trc=16)
    assert probe(path).hdr == "pq"
