"""Every frame that decodes is shown, once, in order, at times that advance, wherever one begins."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from t2v.data.decode import Transform, read_clip
from t2v.footage.frames import iter_frames, probe
from t2v.io.manifest import Clip

RATE = 10


def picture(number: int) -> np.ndarray:
    """Its number as eight bright or dark stripes."""
    frame = np.full((48, 64, 3), 20, np.uint8)
    for bit in range(8):
        if number >> bit & 1:
            frame[:, 8 * bit : 8 * bit + 8] = 235
    return frame


def number_of(frame: np.ndarray) -> int:
    return sum(1 << bit for bit in range(8) if frame[:, 8 * bit + 3 : 8 * bit + 5].mean() > 128)


def write(path: Path, numbers, codec="libx264", form=None, stamps=None, **options: str) -> Path:
    """A film of numbered pictures; `stamps` are their timestamps in frames."""
    if codec == "libx264":
        options = {"crf": "12", "bf": "0", **options}
    with av.open(path, "w", format=form) as file:
        stream = file.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for place, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            if stamps is not None:
                frame.pts = stamps[place]
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def edited(path: Path, hidden: int, shown: int) -> Path:
    """The same mp4 with an edit list that hides its first frames, as a cut by stream copy does."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4 + 8  # after version, flags and the count of entries
    movie = struct.unpack(">I", data[data.index(b"mvhd") + 16 :][:4])[0]
    media = struct.unpack(">I", data[data.index(b"mdhd") + 16 :][:4])[0]
    _, begin = struct.unpack(">Ii", data[at : at + 8])
    facts = shown * movie // RATE, begin + hidden * media // RATE
    data[at : at + 8] = struct.pack(">Ii", *facts)
    path.write_bytes(data)
    return path


def check(path: Path, numbers: list[int], is_even: bool = True) -> None:
    """All pictures are shown in their order, `probe` knows it, and reading may begin anywhere."""
    shown = [(time, number_of(frame)) for time, frame in iter_frames(path)]
    assert [number for _, number in shown] == numbers
    times = np.array([time for time, _ in shown])
    assert times[0] == 0
    assert (np.diff(times) > 0).all()
    if is_even:
        assert times == pytest.approx(np.arange(len(times)) / RATE, abs=2e-3)
    told = probe(path)
    assert told.num_frames == len(shown)
    assert told.duration == pytest.approx(times[-1] + np.median(np.diff(times)), abs=2e-3)
    assert told.fps == pytest.approx(len(shown) / told.duration)
    for start in np.random.default_rng(0).uniform(0, told.duration * 0.95, 4):
        later = [(t, number_of(frame)) for t, frame in iter_frames(path, float(start))]
        assert later == [each for each in shown if each[0] >= start - 1e-4], start


@pytest.mark.parametrize("depth", ["0", "1", "2", "3", "8"])
@pytest.mark.parametrize("how", ["", "open-gop=1:keyint=12:min-keyint=12"])
def test_an_avi_with_b_frames_shows_every_frame(depth, how, tmp_path):
    options = {"bf": depth, "g": "20"} | ({"x264-params": how} if how else {})
    check(write(tmp_path / "film.avi", range(60), **options), [*range(60)])


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video", "mjpeg"])
def test_other_codecs_in_an_avi_too(codec, tmp_path):
    options = {"bf": "2", "g": "12", "b": "4M"} if codec != "mjpeg" else {"b": "4M"}
    check(write(tmp_path / "film.avi", range(40), codec, **options), [*range(40)])


@pytest.mark.parametrize("depth", ["0", "3"])
@pytest.mark.parametrize("begin", [2, 3, 15, 29, 30, 31, 32, 33, 60, 150, 2000])
def test_joined_recordings_are_shown_one_after_the_other(begin, depth, tmp_path):
    """Their clocks overlap, meet, leave a gap that may be one, or jump far ahead."""
    first = write(tmp_path / "a.ts", range(30), "libx264", "mpegts", [*range(30)], bf=depth)
    stamps = [*range(begin, begin + 40)]
    second = write(tmp_path / "b.ts", range(30, 70), "libx264", "mpegts", stamps, bf=depth)
    path = tmp_path / "ab.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    # the first file begins two frames late where B-frames need it, to have no negative times
    begin -= 2 if depth == "3" else 0
    is_gap = 30 < begin < 130  # under ten seconds
    check(path, [*range(70)], is_even=not is_gap and begin != 29)
    told = probe(path)
    assert (told.clock_jumps > 0) == (begin < 30 or begin > 130)
    assert told.duration == pytest.approx(4 + max(begin, 30) / RATE if is_gap else 7, abs=0.11)


def test_a_clock_that_jumps_again_and_again_is_followed(tmp_path):
    parts = []
    for place, begin in enumerate([0, 500, 7, 7, 90]):
        numbers = range(12 * place, 12 * place + 12)
        stamps = [*range(begin, begin + 12)]
        part = write(tmp_path / f"{place}.ts", numbers, "libx264", "mpegts", stamps, bf="2")
        parts.append(part.read_bytes())
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(parts))
    check(path, [*range(60)], is_even=False)
    assert probe(path).clock_jumps >= 3


@pytest.mark.parametrize("depth", ["0", "3"])
@pytest.mark.parametrize(("hidden", "shown"), [(16, 20), (3, 33), (33, 3), (1, 20)])
def test_what_an_edit_list_hides_does_not_count(hidden, shown, depth, tmp_path):
    params = {"bf": depth, "x264-params": "keyint=64:scenecut=0"}
    path = edited(write(tmp_path / "tail.mp4", range(36), **params), hidden, shown)
    with av.open(path) as file:
        wanted = [number_of(frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
    assert wanted[0] == hidden
    assert len(wanted) in (shown, shown + 1)  # one begins at the very end
    check(path, wanted)


def test_frames_spread_over_an_edited_film_are_all_there(tmp_path):
    params = {"x264-params": "keyint=64:scenecut=0"}
    path = edited(write(tmp_path / "tail.mp4", range(36), **params), 16, 20)
    how = Transform(8.0, ((48, 64),), (17, 9, 5), "sparse", 1.25, 1.5)
    numbers = [number_of(frame) for frame in read_clip(Clip(path=str(path)), how)]
    assert (numbers[0], numbers[-1], len(numbers)) == (16, 34, 17)


@pytest.mark.parametrize(
    ("suffix", "codec", "form"),
    [
        ("h264", "libx264", "h264"),
        ("hevc", "libx265", "hevc"),
        ("m4v", "mpeg4", "m4v"),
        ("m2v", "mpeg2video", "mpeg2video"),
        ("ivf", "libvpx", "ivf"),
        ("y4m", "rawvideo", "yuv4mpegpipe"),
        ("mpg", "mpeg2video", "mpeg"),
    ],
)
def test_raw_streams_run_at_their_rate(suffix, codec, form, tmp_path):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    if codec in ("libx264", "mpeg4", "mpeg2video"):
        options = {"bf": "2", "g": "8"}
    check(write(tmp_path / f"film.{suffix}", range(20), codec, form, **options), [*range(20)])


def test_one_frame_lasts_its_time_at_any_rate(tmp_path, read_frames):
    path = write(tmp_path / "one.mp4", [5])
    assert read_frames(path, fps=30).shape[0] == 3
    assert number_of(read_frames(path, fps=10)[0]) == 5
    assert read_frames(path, fps=2).shape[0] == 1


def test_frames_that_share_a_timestamp_are_all_shown(tmp_path):
    path = tmp_path / "film.mkv"
    with av.open(path, "w") as file:
        stream = file.add_stream("mjpeg", rate=RATE, options={"b": "4M"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        stamps = [0, 1, 2, 2, 2, 3, 4, 5]
        packets = []
        for number in range(len(stamps)):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            packets += stream.encode(frame)
        for packet, stamp in zip(packets + stream.encode(), stamps, strict=True):
            packet.pts = packet.dts = stamp
            packet.duration = 1
            file.mux(packet)
    check(path, [*range(8)], is_even=False)
    assert probe(path).duration == pytest.approx(0.6, abs=0.05)


def test_a_late_frame_lets_the_one_before_stay(tmp_path, read_frames):
    path = write(tmp_path / "film.mp4", range(6), stamps=[0, 1, 2, 3, 4, 50])
    assert len(read_frames(path, fps=RATE)) == 51
