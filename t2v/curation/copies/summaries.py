"""Summaries of fingerprints for a search: the layout of their pictures and how they change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from t2v.curation.copies.prints import COARSE, CROPS, SIZE, Crop, coarse, is_static

WAVES = (5, 6)  # cosines down and across that tell a layout
WINDOW, STEP = 16, 4  # pictures: a clip whose picture moves on has layouts of every 2 s
NEW = 0.9  # cosine to the layouts before, below which one of a window is another
FLAT = 0.5  # of 255: the contrast of a layout below which there is none
# The usual size of each cosine at unit contrast, measured on simulated pictures whose amplitudes
# fall with frequency as those of natural ones do (Field, 1987), many of them brighter at the top.
# Divided by it the few that are large everywhere do not make all clips look alike.
SPREAD = np.array(
    [
        [1.00, 0.39, 0.28, 0.20, 0.15, 0.12],
        [0.60, 0.23, 0.19, 0.15, 0.12, 0.10],
        [0.18, 0.15, 0.14, 0.12, 0.10, 0.09],
        [0.13, 0.10, 0.10, 0.09, 0.08, 0.07],
        [0.08, 0.07, 0.07, 0.07, 0.06, 0.06],
    ],
    np.float32,
).ravel()[1:]
MIRROR = np.float32((-1.0) ** np.tile(np.arange(WAVES[1]), WAVES[0])[1:])  # signs of a mirrored one


@dataclass(frozen=True)
class Summaries:
    """The summaries of `n` clips, one after the other in flat arrays.

    Args:
        layouts: `m v c` float32 of length 1, of the picture within each of `CROPS`; zero: flat.
        owners: the clip of each layout, `m`; a clip has one or more.
        changes: coarse pictures less their mean over time, `t d` float16, of all clips.
        lengths: pictures of each clip, `n`.
        static: clips in which nothing changes, `n` bool.
    """

    layouts: np.ndarray
    owners: np.ndarray
    changes: np.ndarray
    lengths: np.ndarray
    static: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    @staticmethod
    def of(prints: Iterable[np.ndarray]) -> Summaries:
        """Summarise fingerprints, `t h w` each, which are read one at a time."""
        layouts, changes, static = [], [], []
        for pictures in prints:
            light = pictures.astype(np.float32)
            layouts.append(_layouts(light))
            seen = rearrange(coarse(light - light.mean(0)), "t h w -> t (h w)")
            changes.append(seen.astype(np.float16))
            static.append(is_static(pictures))
        return Summaries(
            np.concatenate([np.zeros((0, len(CROPS), len(SPREAD)), np.float32), *layouts]),
            np.repeat(np.arange(len(layouts)), [len(each) for each in layouts]),
            np.concatenate([np.zeros((0, COARSE[0] * COARSE[1]), np.float16), *changes]),
            np.array([len(each) for each in changes], np.int64),
            np.array(static, bool),
        )

    @staticmethod
    def joined(parts: Sequence[Summaries]) -> Summaries:
        """Join the summaries of several sets of clips."""
        parts = [Summaries.of([]), *parts]
        before = np.cumsum([0, *(len(each) for each in parts)])
        owners = [each.owners + at for each, at in zip(parts, before, strict=False)]
        names = ("layouts", "changes", "lengths", "static")
        joined = {name: np.concatenate([getattr(each, name) for each in parts]) for name in names}
        return Summaries(owners=np.concatenate(owners), **joined)

    def taken(self, clips: np.ndarray) -> Summaries:
        """The summaries of some clips, in their order."""
        views = np.bincount(self.owners, minlength=len(self))
        return Summaries(
            self.layouts[_within(views, clips)],
            np.repeat(np.arange(len(clips)), views[clips]),
            self.changes[_within(self.lengths, clips)],
            self.lengths[clips],
            self.static[clips],
        )

    def padded_changes(self, clips: np.ndarray, speed: float) -> tuple[np.ndarray, np.ndarray]:
        """The coarse changes of some clips at `speed` times their rate, and how many there are.

        `n t d` float32, with zeros behind the shorter ones, and `n`.
        """
        starts = (np.cumsum(self.lengths) - self.lengths)[clips]
        counts = ((self.lengths[clips] - 1) / speed + 1e-6).astype(int) + 1
        at = np.arange(int(counts.max())) * speed
        inside = np.arange(len(at)) < counts[:, None]
        last = self.lengths[clips][:, None] - 1
        before = np.minimum((at + 1e-6).astype(int), last)
        share = np.clip(at - before, 0, 1)[..., None]
        before, after = starts[:, None] + before, starts[:, None] + np.minimum(before + 1, last)
        light = self.changes[before] * (1 - share) + self.changes[after] * share
        return (light * inside[..., None]).astype(np.float32), counts


def _within(counts: np.ndarray, some: np.ndarray) -> np.ndarray:
    """The rows of some owners, where owner k has `counts[k]` rows behind those of the others."""
    starts, lengths = (np.cumsum(counts) - counts)[some], counts[some]
    behind = np.cumsum(lengths) - lengths
    return np.repeat(starts - behind, lengths) + np.arange(int(lengths.sum()))


def _layouts(light: np.ndarray) -> np.ndarray:
    """The layout of a clip's mean picture, and of windows that look otherwise, `m v c`."""
    means = [light.mean(0)]
    if len(light) > WINDOW:
        starts = sorted({*range(0, len(light) - WINDOW, STEP), len(light) - WINDOW})
        means += [light[at : at + WINDOW].mean(0) for at in starts]
    found = _told(np.stack(means))
    kept = [0]
    for number in range(1, len(found)):
        if (found[kept, 0] @ found[number, 0]).max() < NEW:
            kept.append(number)
    return found[kept]


def _told(pictures: np.ndarray) -> np.ndarray:
    """The layouts of pictures within each of `CROPS`, `n v c`."""
    raw = rearrange(pictures, "n h w -> n (h w)") @ _COSINES
    raw = rearrange(raw, "n (v c) -> n v c", v=len(CROPS))
    contrast = np.linalg.norm(raw, axis=2, keepdims=True)
    even = raw / np.maximum(contrast, 1e-6) / SPREAD
    even /= np.maximum(np.linalg.norm(even, axis=2, keepdims=True), 1e-6)
    return np.where(contrast < FLAT * np.sqrt(SIZE[0] * SIZE[1]), 0, even).astype(np.float32)


def _cosines(crop: Crop) -> np.ndarray:
    """The cosines of `WAVES` over a picture within a crop, `(h w) c`."""
    left, top, right, bottom = crop
    down, across = _waves(SIZE[1], WAVES[0], top, bottom), _waves(SIZE[0], WAVES[1], left, right)
    return rearrange(np.einsum("ky,lx->yxkl", down, across), "y x k l -> (y x) (k l)")[:, 1:]


def _waves(length: int, count: int, before: float, behind: float) -> np.ndarray:
    """Cosines of unit length over pixels, each weighted by how much of it is within the crop."""
    edges = np.clip((np.arange(length + 1) / length - before) / (1 - before - behind), 0, 1)
    waves = np.cos(np.pi * np.outer(np.arange(count), (edges[1:] + edges[:-1]) / 2))
    size = np.where(np.arange(count) > 0, 2 * length, length)[:, None] ** 0.5
    return size * waves * np.diff(edges)


_COSINES = np.concatenate([_cosines(crop) for crop in CROPS], 1).astype(np.float32)
