"""Frames come out upright, of one moment, opaque and of one size, wherever they are read."""

import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from t2v.config.curation import CurateConfig
from t2v.curation.analyze import analyze
from t2v.curation.output import write_files
from t2v.curation.sources import find_sources
from t2v.data.buckets import Unfit
from t2v.data.decode import Transform, read_clip
from t2v.footage.frames import iter_frames, probe
from t2v.io.manifest import Clip

CORNERS = np.full((64, 96, 3), 40, np.uint8)  # no two of its eight views are alike
CORNERS[:32, :48] = (200, 40, 40)
CORNERS[:32, 48:] = (40, 200, 40)
CORNERS[32:, :48] = (40, 40, 200)
ONE = 0x10000
# a b c d of the display matrix, and what it makes of stored pixels
VIEWS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "as it is": ((1, 0, 0, 1), lambda x: x),
    "90": ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
    "180": ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    "270": ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
    "hflip": ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
    "vflip": ((1, 0, 0, -1), lambda x: x[::-1]),
    "transpose": ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    "transverse": ((0, -1, -1, 0), lambda x: np.rot90(x.transpose(1, 0, 2), 2)),
}


def write(path: Path, frames: Iterable[np.ndarray], rate: int = 10, form=None, **options: str):
    frames = list(frames)
    with av.open(path, "w", format=form) as file:
        stream = file.add_stream("libx264", rate=rate, options={"crf": "8", "bf": "0"} | options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = 1
        for array in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            file.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=1)))
        file.mux(stream.encode())
    return path


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got.astype(int) - wanted).mean())


def transform(height: int, width: int, **more: str) -> Transform:
    return Transform(10.0, ((height, width),), (5,), "dense", 4.0, 1.5, **more)


@pytest.mark.parametrize("name", VIEWS)
def test_all_eight_orientations_are_shown_right(name, tmp_path, read_frames):
    matrix, view = VIEWS[name]
    path = with_matrix(write(tmp_path / "film.mp4", [CORNERS] * 10), *matrix)
    wanted = view(CORNERS)
    assert error(read_frames(path)[3], wanted) < 3
    told = probe(path)
    assert (told.height, told.width) == wanted.shape[:2]
    crop = (8, 4, 40, 48)
    assert error(read_frames(path, crop=crop)[3], wanted[4:52, 8:48]) < 4
    assert error(read_clip(Clip(path=str(path)), transform(*wanted.shape[:2]))[3], wanted) < 3


def moving(count: int = 60) -> list[np.ndarray]:
    levels = np.random.default_rng(3).integers(20, 230, (8, 60, 1))
    world = np.kron(levels, np.ones((16, 16, 3))).astype(np.uint8)
    return [world[:, 2 * number : 2 * number + 160] for number in range(count)]


def interlaced(path: Path, count: int = 60) -> Path:
    """The film of `moving` at twice the rate, two moments woven into each frame."""
    fields = moving(2 * count)
    woven = []
    for number in range(count):
        frame = fields[2 * number].copy()
        frame[1::2] = fields[2 * number + 1][1::2]
        woven.append(frame)
    flags = {"flags": "+ilme+ildct", "x264-params": "tff=1:keyint=12:min-keyint=12"}
    return write(path, woven, 25, **flags)


def combs(frames: np.ndarray) -> float:
    """How much a line is unlike both its neighbours, by how much these differ."""
    v = frames[..., 1].astype(float)
    bend = np.abs(2 * v[:, 1:-1] - v[:, :-2] - v[:, 2:]).mean()
    return float(bend / np.abs(v[:, 2:] - v[:, :-2]).mean())


def test_interlaced_film_is_made_of_single_moments(tmp_path, read_frames):
    path = interlaced(tmp_path / "film.mp4", 20)
    clean = combs(np.stack(moving(20)))
    assert combs(read_frames(path, deinterlace=False)) > 2 * clean
    frames = read_frames(path)
    assert combs(frames) < 1.2 * clean
    assert len(frames) == probe(path).num_frames == 20
    assert [time for time, _ in iter_frames(path)] == pytest.approx(np.arange(20) / 25)
    fields = moving(40)
    for number, frame in enumerate(frames):  # one of its two moments, and not the other
        both = sorted(error(frame, fields[2 * number + odd]) for odd in (0, 1))
        assert both[0] < 0.7 * both[1], number


def test_deinterlacing_gives_the_same_frames_wherever_reading_begins(tmp_path):
    path = interlaced(tmp_path / "film.mp4")
    whole = dict(iter_frames(path))
    for start in (0.04, 0.48, 0.5, 0.96, 1.44, 2.3):
        later = dict(iter_frames(path, start))
        assert list(later) == [time for time in whole if time >= start - 1e-4]
        assert all((later[time] == whole[time]).all() for time in later), start


def test_training_and_curation_drop_or_keep_interlaced_film_when_asked(tmp_path):
    path = interlaced(tmp_path / "in.mp4")
    clip, size = Clip(path=str(path)), (128, 160)
    woven = read_clip(clip, transform(*size, interlaced="keep"))
    assert combs(woven) > 1.5 * combs(read_clip(clip, transform(*size)))
    with pytest.raises(Unfit, match="interlaced"):
        read_clip(clip, transform(*size, interlaced="drop"))
    source = find_sources(str(path), tmp_path / "out")[0]
    config = CurateConfig(input="in", output="out")
    probe_only = type(config.probe)(interlaced="drop")
    dropped = analyze(source, CurateConfig(input="in", output="out", probe=probe_only)).clips
    assert [(each.dropped, each.reason[:10]) for each in dropped] == [("probe", "interlaced")]
    kept = analyze(source, config).clips
    assert "interlaced" in kept[0].tags
    assert not any(each.dropped == "probe" for each in kept)


@pytest.mark.parametrize("kind", ["plain", "mirrored", "interlaced", "resized", "joined"])
def test_a_cut_file_holds_the_frames_that_the_reader_gives(kind, tmp_path, read_frames):
    film = tmp_path / f"{kind}.mp4"
    if kind == "interlaced":
        interlaced(film, 40)
    elif kind in ("plain", "mirrored"):
        write(film, moving(40), 25)
    else:
        halves = [moving(40)[:20], moving(40)[20:]]
        small = [[f[::2, ::2] for f in halves[1]], halves[1]][kind == "joined"]
        parts = [
            write(tmp_path / f"{number}.ts", half, 25, "mpegts").read_bytes()
            for number, half in enumerate((halves[0], small))
        ]
        film = film.with_suffix(".ts")
        film.write_bytes(b"".join(parts))
    if kind == "mirrored":
        with_matrix(film, -1, 0, 0, 1)
    source = find_sources(str(film), tmp_path / "out")[0]
    config = CurateConfig(input=str(film), output=str(tmp_path / "out"), files="cut")
    blank = analyze(source, config).clips[0]
    told = probe(film)
    (tmp_path / "out").mkdir()
    for start, end in ((0.0, 1.6), (0.88, 1.4)):
        span = [frame for _, frame in iter_frames(film, start, end)]
        extra = {**blank.extra, "id": f"{start}"}
        extra.pop("crop", None)
        clip = Clip(
            path=str(film),
            start=start,
            end=end,
            fps=25.0,
            num_frames=len(span),
            tags=blank.tags,
            width=told.width,
            height=told.height,
            extra=extra,
        )
        (cut,) = write_files([clip], config, tmp_path / "out")
        assert cut.path != clip.path, cut.reason
        frames = read_frames(cut.path)
        assert frames.shape == (len(span), told.height, told.width, 3)
        assert error(frames, np.stack(span)) < 3
        assert combs(frames) < 1.2 * combs(np.stack(moving(20)))


def test_a_resolution_that_changes_is_scaled_to_the_first(tmp_path, read_frames):
    frames = moving(40)
    first = write(tmp_path / "a.ts", frames[:20], 10, "mpegts").read_bytes()
    small = [each[::2, ::2] for each in frames]
    second = write(tmp_path / "b.ts", small[20:], 10, "mpegts").read_bytes()
    wide = [np.pad(each, ((0, 0), (40, 40), (0, 0))) for each in frames[:6]]
    third = write(tmp_path / "c.ts", wide, 10, "mpegts").read_bytes()
    path = tmp_path / "film.ts"
    path.write_bytes(first + second + third)
    shown = read_frames(path)
    assert shown.shape == (46, 128, 160, 3)
    assert error(shown[:20], np.stack(frames[:20])) < 3
    assert error(shown[20:40], np.stack(frames[20:])) < 12
    assert error(shown[40:], np.stack(frames[:6])) < 3  # another shape: cut around its middle
    assert error(read_frames(path, 2.5)[:10], shown[25:35]) == 0
    source = find_sources(str(path), tmp_path / "out")[0]
    clips = analyze(source, CurateConfig(input="in", output="out")).clips
    assert not any(clip.dropped == "failed" for clip in clips)
    assert {"resized", "timestamps"} <= {tag for clip in clips for tag in clip.tags}
    whole = transform(128, 160)
    assert error(read_clip(Clip(path=str(path), start=1.8), whole), shown[18:23]) < 1


def test_the_stream_marked_as_default_is_the_film(tmp_path, read_frames):
    path = tmp_path / "two.mkv"
    dark, bright = (np.full((64, 64, 3), level, np.uint8) for level in (40, 200))
    with av.open(path, "w") as file:
        streams = [file.add_stream("libx264", rate=10) for _ in range(2)]
        for stream in streams:
            stream.height = stream.width = 64
            stream.pix_fmt = "yuv420p"
        streams[0].disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for _ in range(5):
            for stream, array in zip(streams, (dark, bright), strict=True):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        for stream in streams:
            file.mux(stream.encode())
    assert read_frames(path).mean() > 150
    assert probe(path).video_streams == 2


def test_a_transparent_film_lies_on_white(tmp_path, read_frames):
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[:, :32] = (200, 40, 40, 255)
    rgba[:, 48:] = (0, 0, 255, 128)
    path = tmp_path / "film.mov"
    with av.open(path, "w") as file:
        stream = file.add_stream("qtrle", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "argb"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba")
            file.mux(stream.encode(frame.reformat(format="argb")))
        file.mux(stream.encode())
    wanted = np.full((48, 64, 3), 255, np.uint8)
    wanted[:, :32], wanted[:, 48:] = (200, 40, 40), (127, 127, 255)
    assert error(read_frames(path)[1], wanted) < 0.5
    pictures = [Image.fromarray(rgba), Image.new("RGBA", (64, 48), (0, 0, 0, 0))]
    pictures[0].save(tmp_path / "film.gif", save_all=True, append_images=pictures[1:], disposal=2)
    shown = read_frames(tmp_path / "film.gif")
    assert shown[-1].min() == 255
    assert shown[0][:, 32:46].min() == 255


def test_levels_are_those_of_the_standard(tmp_path, read_frames):
    ramp = np.tile(np.arange(16, 236, dtype=np.uint8), (64, 1))
    path = tmp_path / "ramp.mp4"
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 220, "yuv420p"
        frame = av.VideoFrame(220, 64, "yuv420p")
        for plane, level in zip(frame.planes, (None, 128, 128), strict=True):
            rows = np.full((plane.height, plane.line_size), level or 16, np.uint8)
            if level is None:
                rows[:, :220] = ramp
            plane.update(rows.tobytes())
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    wanted = (ramp.astype(float) - 16) * 255 / 219
    got = read_frames(path)[0]
    assert np.abs(got - wanted[..., None]).max() <= 1
    assert abs((got - wanted[..., None]).mean()) < 0.1
    assert probe(path).sample_aspect == Fraction(1)
