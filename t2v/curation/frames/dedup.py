"""The dedup stage: clips whose pictures change in the same way over time are copies."""

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
STATIC = 1.5  # of 255: below, nothing but grain changes in a clip
ZOOMS = (1.0, 0.9)  # shares of the picture that a copy may show
COARSE = (3, 4)  # height, width of the pictures that select candidate pairs
COARSE_CORRELATION = 0.65  # the least of a candidate pair; copies have .8
MEAN_CORRELATION = 0.7  # the least of its mean pictures; copies have .85
CHUNK = 256  # clips compared with one at a time


def fingerprint(shot: Shot) -> np.ndarray:
    """Thumbnails of the clip, 8 a second, `t h w` uint8, within its crop."""
    grey = shot.grey
    if crop := shot.clip.extra.get("crop"):
        whole = shot.clip.extra["shown"]
        across, down = grey.shape[2] / whole[0], grey.shape[1] / whole[1]
        left, top = round(crop[0] * across), round(crop[1] * down)
        grey = grey[:, top : round(top + crop[3] * down), left : round(left + crop[2] * across)]
    return np.stack([cv2.resize(each, SIZE, interpolation=cv2.INTER_AREA) for each in grey])


def dedup(clips: list[Clip], config: DedupConfig, folder: Path) -> list[Clip]:
    """Return the clips, of each set of copies all but one dropped.

    The longest stays, then the largest, then the cleanest (no text or logo), then the sharpest.
    Two clips are copies when the changes of their pictures correlate at one offset in time, as they
    are, mirrored, or with a tenth cropped off. Static parts do not count: two films of one place
    are no copies. Clips in which nothing changes are compared as pictures.
    """
    prints = [_Print(load_prints(folder, clip)) for clip in clips]
    best = list(range(len(clips)))  # union-find
    correlations: dict[int, tuple[float, int]] = {}
    for a, b in _candidates(prints, config):
        correlation = prints[a].correlation(prints[b], config.overlap)
        if correlation >= config.correlation:
            first, second = _root(best, a), _root(best, b)
            best[max(first, second)] = min(first, second)
            for one, other in ((a, b), (b, a)):
                correlations[one] = max(correlations.get(one, (0.0, 0)), (correlation, other))
    groups: dict[int, list[int]] = {}
    for number in range(len(clips)):
        groups.setdefault(_root(best, number), []).append(number)
    result = list(clips)
    for group in groups.values():
        stays = min(group, key=lambda number: _rank(clips[number]))
        for number in set(group) - {stays}:
            result[number] = _copy_of(clips[number], clips[stays], correlations[number][0])
    return result


STAGE = Stage("all", dedup)


def _copy_of(clip: Clip, stays: Clip, correlation: float) -> Clip:
    span = f"{stays.start:.2f}-{stays.end:.2f} s" if stays.end else "all of it"
    reason = f"shows what {Path(stays.path).name} shows, {span} (correlation {correlation:.2f})"
    clip = replace(clip, extra=clip.extra | {"duplicate_of": stays.extra["id"]})
    return clip.drop("dedup", reason)


def _rank(clip: Clip) -> tuple[float, float, int, float, float, str, float]:
    """The sort key of copies, the one to keep first; text is sharp, so sharpness comes after it."""
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
    """A clip's fingerprint, prepared for comparisons; the costly parts are computed when needed."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures
        light = pictures.astype(np.float32)
        self.mean = light.mean(0)
        changes = light - self.mean
        self.is_static = float(np.sqrt((changes**2).mean())) < STATIC
        self.coarse = reduce(changes, "t (h x) (w y) -> t h w", "mean", h=COARSE[0], w=COARSE[1])
        self.means = [
            _unit(cv2.resize(each, (8, 5), interpolation=cv2.INTER_AREA).ravel())
            for each in (self.mean, np.ascontiguousarray(self.mean[:, ::-1]))
        ]

    @cached_property
    def changes(self) -> list[np.ndarray]:
        """The changes of the pictures over time, whole and zoomed, `t d` each."""
        light = self.pictures.astype(np.float32)
        return [_changes(_zoomed(light, zoom)) for zoom in ZOOMS]

    @cached_property
    def mirrored(self) -> list[np.ndarray]:
        """The changes of the mirrored pictures, whole and zoomed, `t d` each."""
        light = self.pictures[:, :, ::-1].astype(np.float32)
        return [_changes(_zoomed(light, zoom)) for zoom in ZOOMS]

    def correlation(self, other: _Print, overlap: float) -> float:
        """The best correlation over offsets, mirrorings and crops; 0 to 1."""
        if self.is_static and other.is_static:
            means = (other.mean, other.mean[:, ::-1])
            distance = min(float(np.abs(self.mean - mean).mean()) for mean in means)
            return 1.0 if distance < 3 else 0.0
        if self.is_static or other.is_static:
            return 0.0
        pairs = [
            (mine, theirs)
            for others in (other.changes, other.mirrored)
            for mine, theirs in (
                (self.changes[0], others[0]),
                (self.changes[1], others[0]),
                (self.changes[0], others[1]),
            )
        ]
        return max(0.0, *(_correlation(a, b, overlap) for a, b in pairs))


def _changes(light: np.ndarray) -> np.ndarray:
    """The differences from the mean over time, `t d`."""
    return rearrange(light - light.mean(0), "t h w -> t (h w)")


def _zoomed(light: np.ndarray, zoom: float) -> np.ndarray:
    """The middle of each picture, enlarged to full size."""
    if zoom == 1:
        return light
    shift = (1 - zoom) / 2 * np.array(SIZE)
    matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    pictures = np.ascontiguousarray(light)
    return np.stack([cv2.warpAffine(each, matrix, SIZE, flags=flags) for each in pictures])


def _correlation(a: np.ndarray, b: np.ndarray, overlap: float) -> float:
    """The correlation over the frames that two clips share, at the best offset."""
    power_a, power_b = (np.r_[0, np.cumsum((x**2).sum(1))] for x in (a, b))
    offset = np.arange(1 - len(a), len(b))  # frame k of a is k + offset of b
    first, last = np.maximum(0, -offset), np.minimum(len(a), len(b) - offset)
    norm = (power_a[last] - power_a[first]) * (power_b[last + offset] - power_b[first + offset])
    enough = last - first >= max(2, round(overlap * min(len(a), len(b))))
    found = _diagonals(a @ b.T) / np.maximum(np.sqrt(np.maximum(norm, 0)), 1e-6)
    return max(0.0, float(found[enough].max(initial=0.0)))


def _diagonals(matrix: np.ndarray) -> np.ndarray:
    """The sums of all diagonals, the lowest first: each row is shifted one to the right."""
    rows, columns = matrix.shape
    wide = np.zeros((rows, columns + rows), matrix.dtype)
    wide[:, :columns] = matrix[::-1]
    return wide.ravel()[:-rows].reshape(rows, columns + rows - 1).sum(0)


def _unit(values: np.ndarray) -> np.ndarray:
    values = values - values.mean()
    return values / max(float(np.linalg.norm(values)), 1e-6)


class _CoarsePrints:
    """Coarse pictures of every clip, correlated over all offsets at once by Fourier transform."""

    def __init__(self, prints: list[_Print], overlap: float) -> None:
        self.lengths = np.array([len(each.coarse) for each in prints])
        longest = int(self.lengths.max())
        self.size = 2 ** math.ceil(math.log2(2 * longest))
        self.spectra = np.stack([np.fft.rfft(p.coarse, self.size, axis=0) for p in prints])
        self.spectra = self.spectra.astype(np.complex64)  # n f h w
        self.power = np.zeros((len(prints), longest + 1))
        for number, each in enumerate(prints):
            running = np.cumsum((each.coarse**2).sum((1, 2)))
            self.power[number, 1:] = np.r_[running, np.full(longest - len(running), running[-1])]
        self.offsets = np.arange(-longest + 1, longest)
        self.overlap = overlap

    def correlation(self, one: int, others: np.ndarray) -> np.ndarray:
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
        for each in (spectrum, spectrum[:, :, ::-1]):
            cross = (self.spectra[others] * each).sum((2, 3))
            found = np.fft.irfft(cross, self.size, axis=1)[:, self.offsets % self.size]
            best = np.maximum(best, (enough * found / np.maximum(norm, 1e-6)).max(1))
        return best


def _candidates(prints: list[_Print], config: DedupConfig) -> Iterator[tuple[int, int]]:
    """Pairs with similar mean pictures, as they are or mirrored, and similar coarse changes: this
    takes a thousandth of the time of comparing all pairs in full."""
    if not prints:
        return
    plain, mirrored = (np.stack([each.means[side] for each in prints]) for side in (0, 1))
    is_static = np.array([each.is_static for each in prints])
    coarse = _CoarsePrints(prints, config.overlap)
    for number in range(len(prints)):
        rest = np.s_[number + 1 :]
        correlation = np.maximum(plain[rest] @ plain[number], mirrored[rest] @ plain[number])
        near = correlation > MEAN_CORRELATION
        others = number + 1 + np.flatnonzero(near & (is_static[rest] == is_static[number]))
        if not is_static[number]:  # static clips are compared by their means alone
            chunks = [others[at : at + CHUNK] for at in range(0, len(others), CHUNK)]
            likely = [c[coarse.correlation(number, c) > COARSE_CORRELATION] for c in chunks]
            others = np.concatenate(likely) if likely else others
        yield from ((number, other) for other in others.tolist())
