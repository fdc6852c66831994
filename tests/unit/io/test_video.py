"""Video files: what goes in comes out, or a message says why not."""

import errno
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from torch.nn import functional as F

from t2v.config.sampling import VIDEOS
from t2v.errors import UserError
from t2v.io.formats import FORMATS
from t2v.io.gif import gif_shape, read_comment, read_gif, rewrite_comment, write_gif
from t2v.io.sound import Sound
from t2v.io.video import (
    contact_sheet,
    read_recipe,
    read_video,
    rewrite_recipe,
    save_image,
    write_video,
)


@pytest.fixture
def frames():
    """A coloured square that moves over eight colour bars: 9 frames of 32x48."""
    colours = "220,30,30 30,220,30 30,30,220 240,220,20 200,30,200 20,200,210 250,250,250 128,64,32"
    bars = np.array([colour.split(",") for colour in colours.split()], dtype=np.uint8)
    video = np.broadcast_to(bars.repeat(6, axis=0), (9, 32, 48, 3)).copy()
    for t, frame in enumerate(video):
        frame[8:20, 3 * t : 3 * t + 12] = (10, 200, 240)
    return video


@pytest.mark.parametrize("ending", FORMATS)
def test_colours_frames_rate_and_recipe_survive_the_file(ending, frames, tmp_path):
    assert FORMATS.keys() == VIDEOS.keys()
    path, stereo = tmp_path / f"a{ending}", Sound(np.zeros((2, 44100)), 44100)
    write_video(path, frames, 7.5, {"prompt": "old"}, stereo)
    back, fps = read_video(path)
    assert back.shape == frames.shape and back.dtype == np.uint8
    assert fps == 7.5
    assert np.median(np.abs(frames.astype(int) - back)) <= 3
    assert read_recipe(path) == {"prompt": "old"}
    rewrite_recipe(path, {"prompt": "new"})
    assert read_recipe(path) == {"prompt": "new"} and np.array_equal(read_video(path)[0], back)
    if ending == ".mov":
        return  # FFmpeg's encoders of ProRes give other bytes in each run
    bare = tmp_path / f"bare{ending}"
    write_video(bare, frames, 8)
    once = bare.read_bytes()
    write_video(bare, frames, 8)
    assert bare.read_bytes() == once


def test_prores_keeps_ten_bits_of_422(frames, tmp_path):
    write_video(tmp_path / "a.mov", frames, 8)
    with av.open(tmp_path / "a.mov") as file:
        codec = file.streams.video[0].codec_context
        assert (codec.name, codec.profile, codec.pix_fmt) == ("prores", "HQ", "yuv422p10le")


@pytest.mark.parametrize(
    ("fps", "kept"),
    [(7.5, Fraction(15, 2)), (Fraction(30000, 1001),) * 2, (23.976, 23.976), (1, 1)],
)
def test_fps_is_kept_exactly(fps, kept, frames, tmp_path):
    write_video(tmp_path / "a.mp4", frames, fps)
    assert read_video(tmp_path / "a.mp4")[1] == pytest.approx(kept, abs=1e-9)


def test_one_frame_is_a_video(frames, tmp_path):
    write_video(tmp_path / "a.mp4", frames[:1], 8)
    assert read_video(tmp_path / "a.mp4")[0].shape == (1, 32, 48, 3)


@pytest.mark.parametrize("channels", [1, 2])
def test_sound_is_a_track_of_the_film_and_stays_when_the_recipe_changes(channels, frames, tmp_path):
    path, rate = tmp_path / "a.mp4", 16000
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate * 9 // 8) / rate)
    write_video(path, frames, 8, {"prompt": "old"}, Sound(np.stack([tone] * channels), rate))
    rewrite_recipe(path, {"prompt": "new"})
    assert read_recipe(path) == {"prompt": "new"} and len(read_video(path)[0]) == 9
    with av.open(path) as file:
        (track,) = file.streams.audio
        heard = np.concatenate([frame.to_ndarray() for frame in file.decode(track)], axis=1)
        assert (track.rate, track.channels) == (rate, channels)
    assert 9 / 8 <= heard.shape[1] / rate < 9 / 8 + 0.1  # a block of AAC has 1024 samples
    loudest = np.abs(np.fft.rfft(heard[0, 2000:18000])).argmax()
    assert loudest == 440 and np.abs(heard).max() == pytest.approx(0.5, abs=0.05)


def test_the_recipe_survives_the_file(frames, tmp_path):
    recipe = {
        "prompt": 'a "red" bäll = \\ ;#\n 球',
        "seed": 2**53,
        "settings": {"fps": 7.5, "n": None},
    }
    write_video(tmp_path / "a.mp4", frames, 8, recipe)
    assert read_recipe(tmp_path / "a.mp4") == recipe


def test_the_same_frames_give_the_same_file(tmp_path):
    generator = np.random.default_rng(0)
    coarse = torch.rand(1, 3, 5, 9, 9, generator=torch.Generator().manual_seed(1)) * 255
    smooth = rearrange(
        F.interpolate(coarse, (17, 96, 160), mode="trilinear"), "1 c t h w -> t h w c"
    )
    frames = smooth.numpy() + generator.normal(0, 6, smooth.shape)
    files = set()
    for _ in range(12):
        # stirred memory: an encoder that reads what nobody wrote gives itself away
        stirred = [generator.bytes(size) for size in generator.integers(1, 200_000, 20)]
        write_video(tmp_path / "a.mp4", frames.clip(0, 255).astype(np.uint8), 8, {"seed": 0})
        files.add((tmp_path / "a.mp4").read_bytes())
        del stirred
    assert len(files) == 1


def remuxed(path: Path, **more: str) -> Path:
    """As `ffmpeg -c copy` writes it: only the tags that an mp4 knows of itself stay."""
    copy = path.with_name("copy.mp4")
    with av.open(path) as old, av.open(copy, "w", format="mp4") as new:
        new.metadata.update(old.metadata | more)
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return copy


def test_the_recipe_survives_a_remux_that_drops_other_peoples_tags(frames, tmp_path):
    recipe = {"prompt": 'a "red" ball = 1; é\n', "settings": {"seed": 3}}
    write_video(tmp_path / "a.mp4", frames, 8, recipe)
    copy = remuxed(tmp_path / "a.mp4")
    with av.open(copy) as file:
        assert "t2v_recipe" not in file.metadata
    assert read_recipe(copy) == recipe
    rewrite_recipe(copy, recipe | {"weights": "other"})
    assert read_recipe(remuxed(copy)) == recipe | {"weights": "other"}


def test_a_comment_of_somebody_is_no_recipe(frames, tmp_path):
    write_video(tmp_path / "a.mp4", frames, 8)
    with pytest.raises(UserError, match="carries no recipe"):
        read_recipe(remuxed(tmp_path / "a.mp4", comment="holidays {2024}"))


def test_a_file_without_recipe_says_so(frames, tmp_path):
    write_video(tmp_path / "a.mp4", frames, 8)
    with pytest.raises(UserError, match="carries no recipe"):
        read_recipe(tmp_path / "a.mp4")


def test_odd_sizes_are_refused_with_the_nearest_even_one(frames, tmp_path):
    with pytest.raises(UserError, match=r"31x47.*even.*32x48"):
        write_video(tmp_path / "a.mp4", frames[:, :31, :47], 8)


def test_no_frames_are_refused(frames, tmp_path):
    with pytest.raises(UserError, match="nothing to write"):
        write_video(tmp_path / "a.mp4", frames[:0], 8)


@pytest.mark.parametrize("content", [None, b"", b"no video at all" * 99])
def test_an_unreadable_video_is_named(content, tmp_path):
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    verdict = {None: "cannot be read", b"": "empty file"}.get(content, "not a video")
    with pytest.raises(UserError, match=rf"bad\.mp4: {verdict}"):
        read_video(path)
    with pytest.raises(UserError, match=r"bad\.mp4: cannot be read"):
        read_recipe(path)


def test_an_image_is_not_mistaken_for_a_recipe(tmp_path):
    save_image(tmp_path / "a.png", Image.new("RGB", (8, 8)))
    with pytest.raises(UserError, match="carries no recipe"):
        read_recipe(tmp_path / "a.png")


def test_a_failed_write_names_the_reason_and_keeps_the_old_file(frames, tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("t2v.io.video.av.open", full)
    with pytest.raises(UserError, match=r"a\.mp4: cannot be written \(No space left on device\)"):
        write_video(path, frames, 8)
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]
    assert path.read_bytes() == b"old"


def test_a_missing_folder_is_a_users_error(frames, tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        write_video(tmp_path / "nowhere" / "a.mp4", frames, 8)


def test_an_interrupted_write_leaves_nothing(frames, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("t2v.io.video.av.VideoFrame.from_ndarray", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "a.mp4", frames, 8)
    assert not list(tmp_path.iterdir())


def test_a_gif_holds_every_frame_at_the_mean_rate_and_its_recipe(frames, tmp_path):
    path, recipe = tmp_path / "a.gif", {"prompt": "long" * 200}
    write_gif(path, frames, 7.5, recipe)
    with Image.open(path) as gif:
        lasting = [gif.seek(number) or gif.info["duration"] for number in range(9)]
        assert (gif.n_frames, gif.size, sum(lasting)) == (9, (48, 32), 1200)
    still = frames[[0, 0, 0, 4, 4, 8]]  # Pillow writes equal frames once
    write_gif(path, still, 7.5, recipe)
    assert gif_shape(path, 7.5) == (6, 32, 48)
    assert np.array_equal(read_gif(path, 7.5), still)
    assert read_comment(path) == recipe
    rewrite_comment(path, {"prompt": "short"})
    assert read_comment(path) == {"prompt": "short"} and np.array_equal(read_gif(path, 7.5), still)


def test_a_contact_sheet_has_a_captioned_row_for_each_video(frames):
    sheet = contact_sheet([frames, frames[:1]], ["a square", "its first frame"], columns=5)
    assert sheet.size == (5 * 48 * 4, 2 * (32 * 4 + 20))


def test_a_contact_sheet_without_captions_shows_frames_as_they_are(frames):
    sheet = np.asarray(contact_sheet([frames, frames[::-1]], columns=3))
    assert sheet.shape == (2 * 32, 3 * 48, 3)
    assert np.array_equal(sheet[:32, 48:96], frames[4])
    assert np.array_equal(sheet[32:, :48], frames[8])
