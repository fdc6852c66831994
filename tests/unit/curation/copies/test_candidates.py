"""Likely pairs among many clips are found without comparing all, and others are left out."""

import cv2
import numpy as np
import pytest

from t2v.config.curation import DedupConfig
from t2v.curation.copies import candidates as search
from t2v.curation.copies.correlation import correlate
from t2v.curation.copies.prints import Print, faster
from t2v.curation.copies.summaries import Summaries
from t2v.curation.frames.dedup import find_copies

SIDE = 1024


@pytest.fixture(scope="module")
def prints():
    """Fingerprints of 300 clips: a camera over a field whose amplitudes fall as 1 / frequency."""
    draw = np.random.default_rng(0)
    across, down = np.fft.rfftfreq(SIDE)[None], np.fft.fftfreq(SIDE)[:, None]
    waves = np.fft.rfft2(draw.standard_normal((SIDE, SIDE)))
    field = np.fft.irfft2(waves / np.maximum(np.hypot(across, down), 1 / 256), (SIDE, SIDE))
    field = np.float32((field - field.mean()) / field.std())
    return [_clip(field, draw) for _ in range(300)]


def _clip(field, draw):
    length, at, angle = int(draw.integers(16, 40)), draw.uniform(100, 900, 2), draw.uniform(0, 6)
    speed, shake = draw.normal(size=2) * 0.7, np.cumsum(draw.normal(size=(length, 2)) * 0.2, 0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    frames = []
    for step in range(length):
        matrix = np.c_[turn, at + speed * step + shake[step]].astype(np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        frames.append(cv2.warpAffine(field, matrix, (32, 18), flags=flags))
    light = 128 + draw.uniform(25, 60) * np.stack(frames) + draw.normal(size=(length, 18, 32))
    return light.clip(0, 255).astype(np.uint8)


COPIES = {
    "mirrored": lambda clip: clip[:, :, ::-1],
    "trimmed": lambda clip: clip[len(clip) // 5 :],
    "brighter": lambda clip: np.clip(clip * 1.2 + 10.0, 0, 255).astype(np.uint8),
}


def pairs(summaries):
    return {(a, b) for a, b, _ in search.candidates(summaries, None, 0.6)}


def test_tables_find_the_pairs_that_comparing_all_finds_and_only_a_few_others(prints, monkeypatch):
    copies = [make(clip) for make in COPIES.values() for clip in prints[:40]]
    summaries = Summaries.of(prints + copies)
    planted = {(number % 40, number + len(prints)) for number in range(len(copies))}
    exact = pairs(summaries)
    monkeypatch.setattr(search, "EXACT", 0)
    hashed = pairs(summaries)
    assert planted <= hashed <= exact
    unrelated = {pair for pair in exact if max(pair) < len(prints)}
    assert len(unrelated) < 10  # of 44,850


def test_groups_of_copies_are_found_and_nothing_else(prints):
    clips = [*prints[:60], *(make(prints[7]) for make in COPIES.values())]
    groups = find_copies(len(clips), clips.__getitem__, DedupConfig())
    assert [set(group) for group in groups] == [{7, 60, 61, 62}]
    assert min(groups[0].values()) > 0.9


def test_many_copies_of_one_clip_are_one_group_without_comparing_all_their_pairs(
    prints, monkeypatch
):
    monkeypatch.setattr(search, "EXACT", 0)
    asked = []
    match = Print.match
    monkeypatch.setattr(Print, "match", lambda *both: asked.append(both) or match(*both))
    groups = find_copies(50, lambda number: prints[3], DedupConfig())
    assert len(groups) == 1 and len(groups[0]) == 50
    assert len(asked) == 49


def test_joined_summaries_and_parts_of_them_are_those_of_their_clips(prints):
    halves = Summaries.of(prints[:20]), Summaries.of(prints[20:50])
    whole = Summaries.joined(halves)
    some = np.array([41, 3, 22])
    for name in ("layouts", "owners", "changes", "lengths", "static"):
        wanted = getattr(Summaries.of([prints[number] for number in some]), name)
        assert np.array_equal(getattr(whole.taken(some), name), wanted)


def test_a_shared_part_counts_alone_whatever_came_before_or_after(prints):
    film = np.concatenate([prints[1][:16], prints[2][:16]]).astype(np.float32).reshape(32, -1)
    part = film[20:32]
    value, offset = correlate(
        part[None], film[None], np.array([12]), np.array([32]), overlap=0.6, least=0.75
    )
    assert value[0] == pytest.approx(1, abs=1e-3) and offset[0] == 20


def test_a_clip_at_another_speed_is_found_at_that_speed(prints):
    moving = [clip for clip in prints if len(clip) >= 32][:10]
    quick = Summaries.of([faster(clip, 1.5) for clip in moving])
    found = search.candidates(quick, Summaries.of(moving), 0.45, (1.0, 1 / 1.5, 0.5))
    assert {(a, b): speed for a, b, speed in found if a == b} == {
        (number, number): 1 / 1.5 for number in range(len(moving))
    }
