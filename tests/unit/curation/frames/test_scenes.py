"""Cuts, dissolves and fades are found where they are, and none where there is none."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from scenedetect import AdaptiveDetector, FrameTimecode

from t2v.config.curation import CurateConfig, ScenesConfig
from t2v.curation.analyze import analyze
from t2v.curation.frames.scenes import CUT_SIZE, SceneFinder, find_cuts
from t2v.curation.frames.thumbnails import downscaled
from t2v.curation.sources import find_sources
from t2v.io.video import write_video

FPS = 25.0
WHOLE = ScenesConfig(max_seconds=1e6)  # shots are not split


def small(frame):
    return cv2.cvtColor(downscaled(frame, CUT_SIZE), cv2.COLOR_RGB2BGR)


def spans(frames, config=WHOLE, fps=FPS):
    """The shots that are found, as (first frame, one after the last)."""
    finder = SceneFinder(config)
    found = []
    for number, frame in enumerate(frames):
        found += finder.push(number / fps, small(frame))
    return found + finder.finish()


def gaps(frames):
    return [(before[1], after[0]) for before, after in pairwise(spans(frames))]


def f1(truth, found, tolerance=2):
    """Of transitions as (start, end) in frames; one counts when they meet within `tolerance`."""
    left = list(found)
    hits = 0
    for start, end in truth:
        near = [g for g in left if g[0] <= end + tolerance and g[1] >= start - tolerance]
        hits += bool(near)
        left = [gap for gap in left if gap not in near[:1]]
    return 2 * hits / (len(truth) + len(found))


def blended(before, after, length, through=None):
    """The second film after the first by a dissolve, or by a fade through a grey level."""
    share = np.linspace(0, 1, length + 2)[1:-1, None, None, None]
    if through is None:
        middle = before[-length:] * (1 - share) + after[:length] * share
    else:
        out = before[-length:] * (1 - share) + through * share
        black = np.full((3, *before.shape[1:]), through)
        middle = np.concatenate([out, black, after[:length] * share + through * (1 - share)])
    film = np.concatenate([before[:-length], middle.astype(np.uint8), after[length:]])
    return film, (len(before) - length, len(before) - length + len(middle))


def test_hard_cuts_are_found_within_two_frames(scene):
    pans = [0, 1, 3, 0, 8, 2, 0, 5, 1, 0, 3, 8, 0, 2]
    parts = [
        scene(number, 26 + 3 * number % 17, pan=pan, ball=number % 4)
        for number, pan in enumerate(pans)
    ]
    edges = np.cumsum([len(part) for part in parts])[:-1]
    assert f1([(edge, edge) for edge in edges], gaps(np.concatenate(parts))) >= 0.95


def test_dissolves_and_fades_are_found(scene):
    truth_and_found = []
    for number, (length, through) in enumerate(
        [(12, None), (18, None), (25, None), (35, None), (8, 0), (25, 0), (12, 255)]
    ):
        before = scene(100 + number, 60, pan=number % 3, ball=2)
        after = scene(200 + number, 60, pan=(number + 1) % 3, ball=1)
        film, span = blended(before, after, length, through)
        truth_and_found.append(([span], gaps(film)))
    hits = sum(f1(truth, found) > 0 for truth, found in truth_and_found)
    found = sum(len(found) for _, found in truth_and_found)
    assert 2 * hits / (len(truth_and_found) + found) >= 0.8


def test_short_dissolves_between_moving_scenes_are_found(scene):
    scenes = [scene(300 + n, 34, pan=pan, ball=2) for n, pan in enumerate([5, 2, 8, 1, 3])]
    found = []
    for before, after in pairwise(scenes):
        film, span = blended(before, after, 6)
        found.append(f1([span], gaps(film)))
    assert sum(found) >= 0.8 * len(found)


def test_cuts_are_those_of_pyscenedetect(scene):
    films = [scene(number, 9 + 4 * number, pan=number) for number in range(5)]
    film = [small(frame) for frame in np.concatenate(films)]
    changes, last = [], cv2.cvtColor(film[0], cv2.COLOR_BGR2HSV)
    detector = AdaptiveDetector(3.0, 1, window_width=2, min_content_val=4.0)
    theirs = []
    for number, frame in enumerate(film):
        hsv = cv2.cvtColor(frame, cv2.COLOR_BGR2HSV)
        changes.append(np.abs(hsv.astype(int) - last).mean())
        last = hsv
        found = detector.process_frame(FrameTimecode(number, fps=FPS), frame)
        theirs += [each.frame_num for each in found]
    assert find_cuts(np.array(changes), ScenesConfig(min_content=4.0)) == theirs
    assert len(theirs) >= 3


@pytest.mark.parametrize("pan", [3, 8, 15, 30, 60])
def test_no_cut_is_invented_in_pans(scene, pan):
    assert gaps(scene(pan, 80, pan=pan)) == []


def test_no_cut_is_invented_when_the_camera_shakes(scene):
    assert gaps(scene(1, 60, shake=15)) == []


def test_a_flash_is_no_cut(scene):
    film = scene(7, 60, pan=1)
    film[30:33] = np.clip(film[30:33].astype(int) + 60, 0, 255)
    assert gaps(film) == []


def test_a_jump_in_one_scene_ends_the_shot(scene):
    film = scene(8, 120, pan=2, ball=0)
    assert f1([(40, 40)], gaps(np.concatenate([film[:40], film[80:]]))) == 1


def test_a_long_take_is_split_into_pieces_of_which_the_last_two_are_even(scene):
    film = np.repeat(scene(9, 60, pan=2), 4, axis=0)  # 9.6 s
    lengths = [end - start for start, end in spans(film, ScenesConfig(max_seconds=2.0))]
    assert lengths == [50, 50, 50, 45, 45]


def test_what_is_kept_of_a_long_film_stays_small(scene):
    film = scene(10, 40, pan=2)
    finder = SceneFinder(ScenesConfig(max_seconds=2.0))
    most = 0
    found = []
    for number in range(1500):
        found += finder.push(number / FPS, small(film[min(number % 80, 79 - number % 80)]))
        most = max(most, len(finder.times))
    found += finder.finish()
    assert found[0][0] == 0
    assert found[-1][1] == 1500
    assert most < 600


def test_a_black_film_is_a_shot_that_other_stages_drop():
    assert spans(np.zeros((75, 144, 256, 3), np.uint8)) == [(0, 75)]


def test_a_film_of_one_frame_is_a_shot(scene):
    assert spans(scene(0, 1)) == [(0, 1)]


LIGHTS = {
    "white": lambda frames: frames * 0 + 255,
    "black": lambda frames: frames * 0,
    "bright": lambda frames: np.clip(frames.astype(int) + 120, 0, 255),
    "pale": lambda frames: frames * 0.3 + 178,
}


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_flash_of_any_light_splits_no_shot(scene, light, length):
    film = scene(2, 44, pan=2)
    film[22 : 22 + length] = LIGHTS[light](film[22 : 22 + length])
    assert gaps(film) == []


def test_cuts_at_which_light_flashes_are_cuts(scene):
    film = np.concatenate([scene(21, 40, pan=1), scene(22, 40, pan=2)])
    film[39:41] = 255
    [(start, end)] = gaps(film)
    assert 37 <= start <= 40 <= end <= 43


def passing(scene, seed, seconds, width, soft, stays):
    """A film in which somebody dark walks behind an urn; `width` in shares of the picture."""
    draw = np.random.default_rng(seed)
    place = cv2.GaussianBlur(scene(seed, 1, ball=0)[0].astype(np.float32), (0, 0), 6)
    high, wide = place.shape[:2]
    own = round(width * wide)
    coat = cv2.GaussianBlur(draw.normal(10, 30, (high, own, 3)).astype(np.float32), (0, 0), 5)
    urn = np.zeros((high, wide), np.float32)
    cv2.ellipse(urn, (wide // 2, round(0.7 * high)), (wide // 8, high // 3), 0, 0, 360, 1, -1)
    goal = (wide - own) // 2 if stays else wide
    path = [-own] * 24 + np.linspace(-own, goal, round(24 * seconds)).tolist() + [goal] * 24
    film = []
    for left in map(int, path):
        body, shown = np.zeros_like(urn), np.zeros_like(place)
        first, end = max(left, 0), max(min(left + own, wide), 0)
        body[high // 8 :, first:end] = 1
        shown[:, first:end] = coat[:, first - left : end - left] if end > first else 0
        body = (cv2.GaussianBlur(body, (0, 0), soft) * (1 - urn))[..., None]
        frame = place * (1 - body) + shown * body
        frame = np.where(urn[..., None] > 0, place / 2 + 60, frame)
        film.append((frame + draw.normal(size=(high, wide, 1)) * 2).clip(0, 255).astype(np.uint8))
    return np.stack(film)


@pytest.mark.parametrize(
    ("seed", "seconds", "width", "soft", "stays"),
    [
        (0, 2.0, 1.0, 20, True),
        (1, 0.7, 0.4, 8, True),
        (1, 0.7, 0.7, 20, False),
        (1, 1.0, 0.4, 20, True),
        (3, 2.0, 0.7, 20, True),
    ],
)
def test_somebody_who_walks_behind_an_urn_is_no_dissolve(scene, seed, seconds, width, soft, stays):
    assert gaps(passing(scene, seed, seconds, width, soft, stays)) == []


@pytest.mark.parametrize("kind", ["faint", "colour", "dark", "plain"])
def test_a_short_film_of_noise_is_measured_and_only_a_plain_one_called_so(kind, tmp_path):
    draw, size = np.random.default_rng(1), (40, 240, 320)
    film = {
        "faint": lambda: (128 + 10 * draw.standard_normal((*size, 1))).repeat(3, 3),
        "colour": lambda: 128 + 20 * draw.standard_normal((*size, 3)),
        "dark": lambda: draw.integers(0, 40, (*size, 1)).repeat(3, 3),
        "plain": lambda: np.full((*size, 3), 128),
    }[kind]()
    write_video(tmp_path / "film.mp4", film.astype(np.uint8), FPS)
    [source] = find_sources(str(tmp_path), tmp_path / "out")
    [clip] = analyze(source, CurateConfig(input=str(tmp_path), output="out")).clips
    assert clip.dropped
    assert ("plain" in clip.reason) == (kind == "plain"), clip.reason
    assert (clip.dropped == "scenes") == (kind == "plain")


def test_texture_that_is_flat_in_a_thumbnail_is_no_fade():
    draw = np.random.default_rng(2)
    grass = draw.integers(60, 200, (256, 256)).astype(np.uint8)
    thumb = np.full((*CUT_SIZE, 3), 128, np.uint8)
    for middle, ends in ((grass, [(0, 25)]), (np.full_like(grass, 128), [])):
        finder = SceneFinder(WHOLE)
        for number in range(25):
            assert finder.push(number / FPS, thumb, lambda shown=middle: shown) == []
        assert finder.finish() == ends
