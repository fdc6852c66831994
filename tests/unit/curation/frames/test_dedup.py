"""Copies of a film are found however they were made; other films of the same place stay."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from t2v.config.curation import DedupConfig
from t2v.curation.copies.prints import fingerprint
from t2v.curation.frames.dedup import dedup
from t2v.curation.journal import WORK, Analysis, save_analysis


def jpeg(frame):
    data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


COPIES = {
    "coded again": lambda film: np.stack([jpeg(frame) for frame in film]),
    "half the size": lambda film: np.stack([cv2.resize(frame, (128, 72)) for frame in film]),
    "cropped": lambda film: film[:, 7:-7, 13:-13],
    "cropped at one side": lambda film: film[:, :, 24:],
    "trimmed": lambda film: film[17:-10],
    "mirrored": lambda film: film[:, :, ::-1],
    "brighter": lambda film: np.clip(film * 1.2 + 10.0, 0, 255).astype(np.uint8),
    "half the rate": lambda film: film[::2],
}


@pytest.fixture
def kept(shot, tmp_path):
    """Which of some films, by name, stay; `settings` are those of the stage."""
    (tmp_path / WORK).mkdir()
    (tmp_path / "thumbs").mkdir()

    def run(films, **settings):
        clips, prints = [], {}
        for name, film in films.items():
            rate = 12.0 if name == "half the rate" else 24.0
            made = shot(np.ascontiguousarray(film), name, rate)
            clips.append(replace(made.clip, path=f"/{name}.mp4"))
            prints[name] = fingerprint(made.grey, made.clip)
        save_analysis(tmp_path, "key", Analysis(clips, prints))
        done = dedup(clips, DedupConfig(**settings), tmp_path)
        assert [clip.path for clip in done] == [clip.path for clip in clips]
        return {clip.extra["id"]: clip for clip in done if not clip.dropped}, done

    return run


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found(scene, kept, name):
    film = scene(5, 96, pan=1, ball=3)
    stays, done = kept({"original": film, name: COPIES[name](film)})
    assert len(stays) == 1
    gone = next(clip for clip in done if clip.dropped)
    assert gone.dropped == "dedup"
    assert gone.extra["duplicate_of"] in stays
    if name in ("half the size", "trimmed"):
        assert "original" in stays  # the longer, then the larger


def test_different_films_of_the_same_place_stay(scene, kept):
    place = {"seed": 6, "length": 96, "pan": 0}
    walks = [scene(**place, ball=speed) for speed in (2, -3, 5)]
    stays, _ = kept({f"walk {number}": walk for number, walk in enumerate(walks)})
    assert len(stays) == 3


def test_different_films_stay_and_copies_of_copies_go(scene, kept):
    film = scene(7, 96, pan=1)
    others = {f"other {number}": scene(20 + number, 96, pan=1) for number in range(4)}
    copies = {"mirrored": film[:, :, ::-1], "mirrored, trimmed": film[12:, :, ::-1]}
    stays, _ = kept({"film": film, **others, **copies})
    assert set(stays) == {"film", *others}


def test_still_pictures_are_compared_as_pictures(scene, kept):
    one, other = (np.repeat(scene(seed, 1, ball=0), 48, axis=0) for seed in (8, 9))
    stays, _ = kept({"one": one, "again": one, "other": other})
    assert len(stays) == 2


def test_of_equal_copies_the_cleaner_one_stays_and_not_the_sharper(scene, shot, tmp_path):
    film = scene(5, 60, pan=1, ball=3)
    marks = {
        "a text": {"tags": ("text",), "scores": {"sharpness": 7.0, "text": 0.02}},
        "b logo": {"tags": ("logo",), "scores": {"sharpness": 6.0, "text": 0.0}},
        "c little": {"scores": {"sharpness": 6.0, "text": 0.003}},
        "d clean": {"scores": {"sharpness": 5.0, "text": 0.0}},
        "e blurred": {"scores": {"sharpness": 4.0, "text": 0.0}},
    }
    (tmp_path / WORK).mkdir()
    (tmp_path / "thumbs").mkdir()
    clips, prints = [], {}
    for name, marked in marks.items():
        made = shot(film, name)
        clips.append(replace(made.clip, path=f"/{name}.mp4", **marked))
        prints[name] = fingerprint(made.grey, made.clip)
    save_analysis(tmp_path, "key", Analysis(clips, prints))
    done = dedup(clips, DedupConfig(), tmp_path)
    assert [clip.extra["id"] for clip in done if not clip.dropped] == ["d clean"]
