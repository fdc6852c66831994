"""What a browser is shown of clips: pixels that were decoded, or the reason why there are none."""

import shutil

import numpy as np
import pytest
from PIL import Image

from t2v.curation.review import previews
from t2v.curation.review.previews import Previews, Unshowable
from t2v.footage.frames import probe
from t2v.io.manifest import Clip, read_manifest
from t2v.io.video import read_video, write_video


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    made = Previews(tmp_path_factory.mktemp("previews"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Six seconds of 640x360: left half dark, right half bright, brighter each second."""
    frames = np.zeros((12, 360, 640, 3), np.uint8)
    frames[:, :, 320:] = (100 + np.arange(12) * 10)[:, None, None, None]
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, frames, 2)
    return str(path)


def test_the_span_is_shown_cropped_small_and_at_its_own_speed(shown, film):
    clip = Clip(path=film, start=2.0, end=4.0, extra={"crop": [320, 0, 320, 360]})
    frames, rate = read_video(shown.file(clip, "film"))
    assert (frames.shape, rate) == ((4, 360, 320, 3), 2)
    assert np.allclose(frames.mean(axis=(1, 2, 3)), [140, 150, 160, 170], atol=6)
    with Image.open(shown.file(clip, "picture")) as picture:
        assert picture.size == (320, 360)
        assert abs(np.asarray(picture).mean() - 140) < 6
    whole = shown.file(Clip(path=film), "film")
    assert (probe(whole).width, probe(whole).height, probe(whole).duration) == (480, 270, 6.0)


def test_a_long_film_is_shown_from_its_start_on_and_no_further(shown, tmp_path):
    write_video(tmp_path / "long.mp4", np.zeros((40, 32, 32, 3), np.uint8), 2)
    found = probe(shown.file(Clip(path=str(tmp_path / "long.mp4")), "film"))
    assert (found.duration, found.width) == (previews.SECONDS, 32)


def test_pictures_and_rendered_clips_are_shown_too(shown, tmp_path, clips):
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(tmp_path / "one.png")
    one = Clip(path=str(tmp_path / "one.png"), extra={"crop": [0, 0, 32, 64]})
    world = read_manifest(clips)[7]
    with Image.open(shown.file(one, "picture")) as picture:
        assert picture.size == (32, 64)
    assert read_video(shown.file(one, "film"))[0].shape == (1, 64, 32, 3)
    assert shown.file(world, "picture").stat().st_size
    assert read_video(shown.file(world, "film"))[0].shape == (5, 16, 32, 3)


def test_nothing_is_sent_of_what_is_no_clip(shown, awkward):
    cases = [
        ("/etc/hostname", {}, "not a video"),
        ("/dev/zero", {}, "device"),
        ("gone.mp4", {}, "No such file"),
        ("text.mp4", {}, "not a video"),
        ("sound.mp4", {}, "video"),
        ("0.mp4", {"start": 99.0}, "no frames"),
        ("0.mp4", {"extra": {"crop": "half of it"}}, "too many values"),
        ("0.mp4", {"extra": {"crop": [0, 0, 10**9, 10**9]}}, "crop"),
        ("one.png", {"extra": {"crop": [0, 0, 10**9, 10**9]}}, "exceeds limit"),
        ("\ud800.mp4", {}, "surrogates"),
        ("x.safetensors", {"extra": {"index": "all"}}, "does not hold"),
    ]
    before = set(shown.folder.iterdir())
    for path, about, reason in cases:
        clip = Clip(path=str(awkward / path), **about)
        for _ in range(2):
            with pytest.raises(Unshowable, match=reason):
                shown.file(clip, "picture")
    assert set(shown.folder.iterdir()) == before


def test_the_least_used_files_make_room(shown, clips, monkeypatch):
    monkeypatch.setattr(previews, "MOST", 2)
    a, b, c, *_ = read_manifest(clips)
    paths = [shown.file(clip, "picture") for clip in (a, b, a, c)]
    assert paths[0] == paths[2]
    assert set(shown.folder.glob("*.jpg")) == {paths[0], paths[3]}
    assert shown.file(b, "picture") == paths[1]
    assert paths[1].is_file()


def test_a_folder_that_was_cleared_is_filled_again(clips, tmp_path):
    made = Previews(tmp_path / "cleared")
    try:
        first = made.file(read_manifest(clips)[0], "picture")
        shutil.rmtree(tmp_path / "cleared")
        assert made.file(read_manifest(clips)[0], "picture") == first
        assert first.stat().st_size
    finally:
        made.close()


def test_a_file_that_was_replaced_is_shown_anew(shown, tmp_path):
    sizes = []
    for size in (16, 32):
        write_video(tmp_path / "a.mp4", np.zeros((2, size, size, 3), np.uint8), 2)
        with Image.open(shown.file(Clip(path=str(tmp_path / "a.mp4")), "picture")) as picture:
            sizes.append(picture.size)
    assert sizes == [(16, 16), (32, 32)]


def test_who_waits_when_the_studio_ends_is_told_so(tmp_path, clips):
    """A film that is being made is given up: the studio need not wait for it."""
    made, clip = Previews(tmp_path), read_manifest(clips)[0]
    made.file(clip, "picture")
    (worker,) = made._crews["picture"]._begun
    made.close()
    assert not worker.process.is_alive()
    for kind in ("picture", "film"):
        with pytest.raises(Unshowable, match="is ending"):
            made.file(read_manifest(clips)[1], kind)
