"""What is opened as media is a regular file of a known format, and points to nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from t2v.config.curation import CurateConfig
from t2v.curation.analyze import analyze
from t2v.curation.sources import Source
from t2v.data.buckets import Unfit
from t2v.data.decode import Transform, read_clip
from t2v.errors import UserError
from t2v.footage.frames import iter_frames, probe
from t2v.footage.still import read_picture
from t2v.io.gif import write_gif
from t2v.io.manifest import Clip
from t2v.io.video import read_recipe, read_video, rewrite_recipe, write_video
from t2v.io.workers import Failure, work

HOW = Transform(8.0, ((64, 64),), (5, 1), "dense", 1.25, 1.5)


def readers():
    def clip(path):
        try:
            read_clip(Clip(path=str(path)), HOW)
        except Unfit as error:
            raise UserError(str(error)) from error

    def curation(path):
        source = Source(path=str(path), name=path.name, size=1, modified=1)
        clips = analyze(source, CurateConfig(input="in", output="out")).clips
        if all(clip.dropped for clip in clips):
            raise UserError(clips[0].reason)

    def rewrite(path):
        rewrite_recipe(path, {})

    def frames(path):
        return list(iter_frames(path))

    plain = {each.__name__: each for each in (probe, frames, read_video, read_recipe)}
    return plain | {"clip": clip, "curation": curation, "rewrite": rewrite}


each_reader = pytest.mark.parametrize("name", readers())


@pytest.fixture
def film(tmp_path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (10, 64, 64, 3), np.uint8)
    write_video(tmp_path / "secret.mp4", frames, 8, {"prompt": "secret"})
    return tmp_path / "secret.mp4"


@each_reader
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "just some words\n" * 50,
    ],
    ids=["ffconcat", "playlist", "text"],
)
def test_a_script_is_no_film(name, mark, script, film, tmp_path):
    path = tmp_path / "script.mp4"
    path.write_text(mark + script, encoding="utf-8")
    with pytest.raises(UserError):
        readers()[name](path)


def test_what_is_no_file_does_not_hang(tmp_path):
    for suffix in (".mp4", ".png"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
        (tmp_path / f"loop{suffix}").symlink_to(tmp_path / f"loop{suffix}")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "import test_containers\n"
        "for path in sys.argv[2:]:\n"
        "    for name, read in test_containers.readers().items():\n"
        "        try: read(Path(path))\n"
        "        except test_containers.UserError: pass\n"
        "        else: sys.exit(name + path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, Path(__file__).parent, *tmp_path.iterdir()],
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_picture_of_another_format_is_none(tmp_path):
    path = tmp_path / "script.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises((UserError, Unfit)):
        read_clip(Clip(path=str(path)), HOW)


def test_a_bomb_of_pixels_is_not_decoded(tmp_path):
    Image.new("1", (9_000, 8_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="9000x8000"):
        read_clip(Clip(path=str(tmp_path / "bomb.png")), HOW)


def damaged(data: bytes, generator: np.random.Generator) -> bytes:
    """Flipped bytes, and half the time a cut."""
    changed = bytearray(data)
    for place in generator.integers(0, len(data), generator.integers(1, 40)):
        changed[place] = generator.integers(0, 256)
    end = generator.integers(16, len(data)) if generator.random() < 0.5 else len(data)
    return bytes(changed[:end])


def read_in_every_way(path: Path) -> list[str]:
    """How each way of reading ended: in frames, or in a UserError that names the file."""
    ways = [probe, lambda each: list(iter_frames(each)), read_video, read_recipe, read_picture]
    ways.append(lambda each: list(islice(iter_frames(each, 0.5, fps=7), 50)))
    ended = []
    for read in ways:
        try:
            read(path)
        except UserError as error:
            assert path.name in str(error)
            ended.append("refused")
        else:
            ended.append("read")
    return ended


def seeds(folder: Path) -> Iterator[Path]:
    """A small film or picture of each kind."""
    frames = np.random.default_rng(1).integers(0, 255, (8, 32, 48, 3), np.uint8)
    kinds = {
        "mp4": "libx264",
        "ts": "libx264",
        "avi": "libx264",
        "mkv": "mpeg4",
        "mpg": "mpeg2video",
    }
    for suffix, codec in kinds.items():
        path = folder / f"seed.{suffix}"
        with av.open(path, "w") as file:
            stream = file.add_stream(codec, rate=25, options={"bf": "2"})
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            for each in frames:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
            file.mux(stream.encode())
        yield path
    write_video(folder / "ours.mp4", frames, 8, {"prompt": "a red ball"})
    yield folder / "ours.mp4"
    write_gif(folder / "seed.gif", frames, 8)
    yield folder / "seed.gif"
    for suffix in ("png", "jpg", "webp", "bmp"):
        save = Image.fromarray(frames[0]).save
        save(folder / f"seed.{suffix}")
        yield folder / f"seed.{suffix}"


def test_damaged_bytes_are_read_or_refused_in_time(tmp_path):
    generator, paths = np.random.default_rng(0), []
    for seed in list(seeds(tmp_path)):
        for number in range(25):
            path = tmp_path / f"{seed.stem}-{number}{seed.suffix}"
            path.write_bytes(damaged(seed.read_bytes(), generator))
            paths.append(path)
    results = dict(work(read_in_every_way, paths, workers=1, seconds=20))
    failed = {paths[at].name: r for at, r in results.items() if isinstance(r, Failure)}
    assert not failed
    ended = [each for result in results.values() for each in result]
    assert ended.count("read") > 100  # the damage was not so great that nothing was tried
    assert ended.count("refused") > 100
