"""Which clips show the same: how their pictures change, compared over time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from einops import rearrange, reduce

from t2v.config.curation import DedupConfig
from t2v.curation.journal import load_prints
from t2v.curation.shot import Shot
from t2v.curation.stages import Stage
from t2v.io.manifest import Clip

SIZE = (32, 18)  # width, height of a fingerprint's pictures
STATIC = 1.5  # of 255: below, a clip has nothing but grain that changes
ZOOMS = (1.0, 0.9)  # of a copy's picture that may be left
GLANCE = (3, 4)  # height, width of the pictures of a first glance
GLIMPSE = 0.65  # the correlation at a glance from which a pair is looked at closely; copies have .8
ALIKE = 0.7  # of mean pictures; copies have .85
AT_ONCE = 256


def fingerprint(shot: Shot) -> np.ndarray:
    """Small pictures of the clip, 8 a second, `t h w` uint8, within its crop."""
    grey = shot.grey
    if crop := shot.clip.extra.get("crop"):
        whole = shot.clip.extra["shown"]
        across, down = grey.shape[2] / whole[0], grey.shape[1] / whole[1]
        left, top = round(crop[0] * across), round(crop[1] * down)
        grey = grey[:, top : round(top + crop[3] * down), left : round(left + crop[2] * across)]
    return np.stack([cv2.resize(each, SIZE, interpolation=cv2.INTER_AREA) for each in grey])


def dedup(clips: list[Clip], config: DedupConfig, folder: Path) -> list[Clip]:
    """The clips, of each set of copies all but one dropped: the longest, then the largest, then
    the cleanest (nothing laid over it), then the sharpest stays.

    Two clips are copies when what changes in their pictures correlates at one offset in time, as
    it is, mirrored, or with a tenth cut off. What stands still does not count: two films of one
    place are no copies. Clips in which nothing changes are compared as pictures.
    """
    prints = [_Print(load_prints(folder, clip)) for clip in clips]
    best = list(range(len(clips)))  # union-find
    closeness: dict[int, tuple[float, int]] = {}
    for a, b in _candidates(prints, config):
        likeness = prints[a].likeness(prints[b], config.overlap)
        if likeness >= config.correlation:
            first, second = _root(best, a), _root(best, b)
            best[max(first, second)] = min(first, second)
            for one, other in ((a, b), (b, a)):
                closeness[one] = max(closeness.get(one, (0.0, 0)), (likeness, other))
    groups: dict[int, list[int]] = {}
    for number in range(len(clips)):
        groups.setdefault(_root(best, number), []).append(number)
    result = list(clips)
    for group in groups.values():
        stays = min(group, key=lambda number: _rank(clips[number]))
        for number in set(group) - {stays}:
            result[number] = _copy_of(clips[number], clips[stays], closeness[number][0])
    return result


STAGE = Stage("all", dedup)


def _copy_of(clip: Clip, stays: Clip, likeness: float) -> Clip:
    span = f"{stays.start:.2f}-{stays.end:.2f} s" if stays.end else "all of it"
    reason = f"shows what {Path(stays.path).name} shows, {span} (correlation {likeness:.2f})"
    clip = replace(clip, extra=clip.extra | {"duplicate_of": stays.extra["id"]})
    return clip.drop("dedup", reason)


def _rank(clip: Clip) -> tuple[float, float, int, float, float, str, float]:
    """What sorts first stays; letters are sharp, so sharpness comes after what is laid over."""
    length = (clip.end or 0.0) - clip.start
    area = (clip.width or 0) * (clip.height or 0)
    return (
        -round(2 * length),  # a few frames more are not worth a smaller picture
        -area,
        sum(mark in clip.tags for mark in ("text", "logo")),
        clip.scores.get("text", 0.0),
        -clip.scores.get("sharpness", 0.0),
        clip.path,
        clip.start,
    )


def _root(best: list[int], number: int) -> int:
    while best[number] != number:
        best[number] = best[best[number]]
        number = best[number]
    return number


class _Print:
    """A clip's fingerprint, ready to be compared with others; what few clips need is made late."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures
        light = pictures.astype(np.float32)
        self.mean = light.mean(0)
        changes = light - self.mean
        self.is_static = float(np.sqrt((changes**2).mean())) < STATIC
        self.glance = reduce(changes, "t (h x) (w y) -> t h w", "mean", h=GLANCE[0], w=GLANCE[1])
        self.coarse = [
            _unit(cv2.resize(each, (8, 5), interpolation=cv2.INTER_AREA).ravel())
            for each in (self.mean, np.ascontiguousarray(self.mean[:, ::-1]))
        ]

    @cached_property
    def looks(self) -> list[np.ndarray]:
        """What changes in the pictures, whole and zoomed, `t d` each."""
        light = self.pictures.astype(np.float32)
        return [_changes(_zoomed(light, zoom)) for zoom in ZOOMS]

    @cached_property
    def mirrored(self) -> list[np.ndarray]:
        """The same of the mirrored pictures."""
        light = self.pictures[:, :, ::-1].astype(np.float32)
        return [_changes(_zoomed(light, zoom)) for zoom in ZOOMS]

    def likeness(self, other: _Print, overlap: float) -> float:
        """The best correlation over offsets, mirrorings and crops; 0 to 1."""
        if self.is_static and other.is_static:
            means = (other.mean, other.mean[:, ::-1])
            near = min(float(np.abs(self.mean - mean).mean()) for mean in means)
            return 1.0 if near < 3 else 0.0
        if self.is_static or other.is_static:
            return 0.0
        pairs = [
            (mine, theirs)
            for looks in (other.looks, other.mirrored)
            for mine, theirs in (
                (self.looks[0], looks[0]),
                (self.looks[1], looks[0]),
                (self.looks[0], looks[1]),
            )
        ]
        return max(0.0, *(_correlation(a, b, overlap) for a, b in pairs))


def _changes(light: np.ndarray) -> np.ndarray:
    """What differs from the mean over time, `t d`."""
    return rearrange(light - light.mean(0), "t h w -> t (h w)")


def _zoomed(light: np.ndarray, zoom: float) -> np.ndarray:
    """The middle of each picture, enlarged to the whole."""
    if zoom == 1:
        return light
    shift = (1 - zoom) / 2 * np.array(SIZE)
    matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pictures = np.ascontiguousarray(light)
    return np.stack([cv2.warpAffine(each, matrix, SIZE, flags=flags) for each in pictures])


def _correlation(a: np.ndarray, b: np.ndarray, overlap: float) -> float:
    """Of the frames that two clips share, at the offset where it is best."""
    power_a, power_b = (np.r_[0, np.cumsum((x**2).sum(1))] for x in (a, b))
    offset = np.arange(1 - len(a), len(b))  # frame k of a is k + offset of b
    first, last = np.maximum(0, -offset), np.minimum(len(a), len(b) - offset)
    norm = (power_a[last] - power_a[first]) * (power_b[last + offset] - power_b[first + offset])
    enough = last - first >= max(2, round(overlap * min(len(a), len(b))))
    found = _diagonals(a @ b.T) / np.maximum(np.sqrt(np.maximum(norm, 0)), 1e-6)
    return max(0.0, float(found[enough].max(initial=0.0)))


def _diagonals(matrix: np.ndarray) -> np.ndarray:
    """The sums of all diagonals, the lowest first: each row one further to the right."""
    rows, columns = matrix.shape
    wide = np.zeros((rows, columns + rows), matrix.dtype)
    wide[:, :columns] = matrix[::-1]
    return wide.ravel()[:-rows].reshape(rows, columns + rows - 1).sum(0)


def _unit(values: np.ndarray) -> np.ndarray:
    values = values - values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


class _Glances:
    """Few numbers a picture of every clip, correlated over all offsets at once by Fourier."""

    def __init__(self, prints: list[_Print], overlap: float) -> None:
        self.lengths = np.array([len(each.glance) for each in prints])
        longest = int(self.lengths.max())
        self.size = 2 ** math.ceil(math.log2(2 * longest))
        self.spectra = np.stack([np.fft.rfft(p.glance, self.size, axis=0) for p in prints])
        self.spectra = self.spectra.astype(np.complex64)  # n f h w
        self.power = np.zeros((len(prints), longest + 1))
        for number, each in enumerate(prints):
            running = np.cumsum((each.glance**2).sum((1, 2)))
            self.power[number, 1:] = np.r_[running, np.full(longest - len(running), running[-1])]
        self.offsets = np.arange(-longest + 1, longest)
        self.overlap = overlap

    def likeness(self, one: int, others: np.ndarray) -> np.ndarray:
        """The best correlation of a clip with each of some others, mirrored or not, `n`."""
        mine, theirs = self.lengths[one], self.lengths[others, None]
        offset = self.offsets[None]  # frame k of the one is k + offset of the other
        first = np.clip(-offset, 0, mine)
        last = np.clip(theirs - offset, first, mine)
        enough = last - first >= np.maximum(2, np.round(self.overlap * np.minimum(mine, theirs)))
        power = self.power[others]
        end, begin = (np.clip(at + offset, 0, power.shape[1] - 1) for at in (last, first))
        norm = np.take_along_axis(power, end, 1) - np.take_along_axis(power, begin, 1)
        norm = np.sqrt(np.maximum(norm * (self.power[one][last] - self.power[one][first]), 0))
        best = np.zeros(len(others))
        spectrum = self.spectra[one].conj()
        for look in (spectrum, spectrum[:, :, ::-1]):
            cross = (self.spectra[others] * look).sum((2, 3))
            found = np.fft.irfft(cross, self.size, axis=1)[:, self.offsets % self.size]
            best = np.maximum(best, (enough * found / np.maximum(norm, 1e-6)).max(1))
        return best


def _candidates(prints: list[_Print], config: DedupConfig) -> Iterator[tuple[int, int]]:
    """Pairs whose mean pictures are roughly alike, as they are or mirrored, and whose changes are
    at a glance; a thousandth of the work of looking closely at all."""
    if not prints:
        return
    plain, mirrored = (np.stack([each.coarse[side] for each in prints]) for side in (0, 1))
    is_static = np.array([each.is_static for each in prints])
    glances = _Glances(prints, config.overlap)
    for number in range(len(prints)):
        rest = np.s_[number + 1 :]
        alike = np.maximum(plain[rest] @ plain[number], mirrored[rest] @ plain[number])
        near = alike > ALIKE
        others = number + 1 + np.flatnonzero(near & (is_static[rest] == is_static[number]))
        if not is_static[number]:  # else the means are all there is to compare
            chunks = [others[at : at + AT_ONCE] for at in range(0, len(others), AT_ONCE)]
            likely = [each[glances.likeness(number, each) > GLIMPSE] for each in chunks]
            others = np.concatenate(likely) if likely else others
        yield from ((number, other) for other in others.tolist())
