"""The fingerprint of a clip, thumbnails 8 a second, and how alike two of them are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from einops import rearrange, reduce

from t2v.curation.copies.correlation import aligned, correlate
from t2v.io.manifest import Clip

SIZE = (32, 18)  # width, height of a fingerprint's pictures
STATIC = 1.5  # of 255: below, nothing but grain changes in a clip
CHANGES = 0.75  # the least change of the part that two clips share, of 255
COARSE = (3, 4)  # height, width of the pictures whose changes are compared first
COARSE_CHANGES = 0.2  # the least change of such a part in them, of 255
SAME_PICTURE = 3.0  # of 255: the difference of two still pictures that are one
SURE = 0.9  # a correlation from which no other crop is tried
# What a copy may have lost at the left, top, right and bottom, as shares of the picture.
Crop = tuple[float, float, float, float]
WHOLE: Crop = (0.0, 0.0, 0.0, 0.0)
CROPS: dict[Crop, str] = {
    WHOLE: "",
    (0.05, 0.05, 0.05, 0.05): "cropped",
    (0.1, 0.0, 0.0, 0.0): "cropped at the left",
    (0.0, 0.1, 0.0, 0.0): "cropped at the top",
    (0.0, 0.0, 0.1, 0.0): "cropped at the right",
    (0.0, 0.0, 0.0, 0.1): "cropped at the bottom",
}


@dataclass(frozen=True)
class Match:
    """The likeness of two clips.

    Args:
        correlation: of the changes of their pictures, 0 to 1; of still pictures 1 or 0.
        offset: picture k of the one is picture k + offset of the other, `MOTION_RATE` a second.
        kind: how the one differs from the other, in words; empty: in nothing that is looked for.
    """

    correlation: float
    offset: int = 0
    kind: str = ""


def fingerprint(grey: np.ndarray, clip: Clip) -> np.ndarray:
    """Thumbnails of a clip within its crop, `t h w` uint8.

    Args:
        grey: its pictures, whole, 8 a second, `t h w` uint8 of any size.
    """
    if crop := clip.extra.get("crop"):
        whole = clip.extra["shown"]
        across, down = grey.shape[2] / whole[0], grey.shape[1] / whole[1]
        left, top = round(crop[0] * across), round(crop[1] * down)
        grey = grey[:, top : round(top + crop[3] * down), left : round(left + crop[2] * across)]
    return np.stack([cv2.resize(each, SIZE, interpolation=cv2.INTER_AREA) for each in grey])


def is_static(pictures: np.ndarray) -> bool:
    """Return whether nothing but grain changes in a fingerprint."""
    return float(np.sqrt(pictures.astype(np.float32).var(0).mean())) < STATIC


def faster(pictures: np.ndarray, speed: float) -> np.ndarray:
    """The fingerprint of a clip played at `speed` times its rate, `t h w` float."""
    if speed == 1:
        return pictures.astype(np.float32)
    at = np.arange(0, len(pictures) - 1 + 1e-6, speed)
    before = np.minimum((at + 1e-6).astype(int), len(pictures) - 1)
    after = np.minimum(before + 1, len(pictures) - 1)
    share = np.clip(at - before, 0, 1).astype(np.float32)[:, None, None]
    light = pictures.astype(np.float32)
    return light[before] * (1 - share) + light[after] * share


class Print:
    """A fingerprint prepared for comparisons in full.

    Args:
        pictures: `t h w`, levels from 0 to 255.
    """

    def __init__(self, pictures: np.ndarray) -> None:
        self.light = pictures.astype(np.float32)
        self.mean = self.light.mean(0)
        self.is_static = is_static(pictures)
        self._views: dict[tuple[bool, Crop], np.ndarray] = {}

    def match(self, other: Print, overlap: float) -> Match:
        """Return the best of all offsets, mirrorings and crops of one of the two.

        Clips in which nothing changes are compared as pictures.

        Args:
            overlap: the least share of the shorter clip that both have in common.
        """
        if self.is_static or other.is_static:
            return self._same_picture(other) if self.is_static and other.is_static else Match(0.0)
        found = self._whole(other, overlap)
        if found.correlation >= SURE:
            return found
        return max(found, self._cropped(other, overlap), key=lambda each: each.correlation)

    def _same_picture(self, other: Print) -> Match:
        means = (other.mean, other.mean[:, ::-1])
        distances = [float(np.abs(self.mean - mean).mean()) for mean in means]
        if min(distances) >= SAME_PICTURE:
            return Match(0.0)
        return Match(1.0, 0, "" if distances[0] <= distances[1] else "mirrored")

    def _whole(self, other: Print, overlap: float) -> Match:
        """The best of all offsets, mirrored or not."""
        values, offsets = self._correlated(other, lambda light: light, overlap, CHANGES)
        best = int(values.argmax())
        return Match(float(values[best]), int(offsets[best]), "mirrored" if best else "")

    def _correlated(
        self, other: Print, see: Callable[[np.ndarray], np.ndarray], overlap: float, least: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Correlations and offsets with another one as it is and mirrored, as `see` sees both."""
        mine, *theirs = (
            rearrange(see(light - light.mean(0)), "t h w -> t (h w)")
            for light in (self.light, other.light, other.light[:, :, ::-1])
        )
        both = np.stack([mine, mine]), np.stack(theirs)
        lengths = (np.full(2, each.shape[1]) for each in both)
        return correlate(*both, *lengths, overlap=overlap, least=least)

    def _cropped(self, other: Print, overlap: float) -> Match:
        """The best of all crops of one of the two, near the offset of the coarse changes."""
        values, offsets = self._correlated(other, coarse, overlap, COARSE_CHANGES)
        mirrored, offset = bool(values.argmax()), int(offsets[values.argmax()])
        pairs = [pair for crop in CROPS for pair in ((crop, WHOLE), (WHOLE, crop))]
        at_once = [self._at(other, offset, pair, mirrored, overlap) for pair in pairs]
        best = pairs[int(np.argmax(at_once))]
        found = {
            shift: self._at(other, shift, best, mirrored, overlap)
            for shift in range(offset - 1, offset + 2)
        }
        shift = max(found, key=lambda each: found[each])
        words = [f"other {CROPS[best[0]]}" if CROPS[best[0]] else CROPS[best[1]]]
        words.append("mirrored" * mirrored)
        return Match(found[shift], shift, ", ".join(filter(None, words)))

    def _at(
        self, other: Print, offset: int, crops: tuple[Crop, Crop], mirrored: bool, overlap: float
    ) -> float:
        """The correlation at one offset, each within its crop."""
        lengths = len(self.light), len(other.light)
        first, last = max(0, -offset), min(lengths[0], lengths[1] - offset)
        if last - first < max(2, round(overlap * min(lengths))):
            return 0.0
        mine = self._view(crops[0], False)[first:last]
        return aligned(mine, other._view(crops[1], mirrored)[first + offset : last + offset])

    def _view(self, crop: Crop, mirrored: bool) -> np.ndarray:
        """The pictures within a crop, enlarged, in half the size of a fingerprint, `t d`."""
        key = (mirrored, crop)
        if key not in self._views:
            light = self.light[:, :, ::-1] if mirrored else self.light
            light = cropped(light, crop)
            self._views[key] = reduce(light, "t (h y) (w x) -> t (h w)", "mean", y=2, x=2)
        return self._views[key]


def coarse(pictures: np.ndarray) -> np.ndarray:
    """Pictures of `COARSE` size, `t h w`: what is left of the changes after any crop."""
    pattern = "t (h y) (w x) -> t h w"
    return reduce(pictures, pattern, "mean", h=COARSE[0], w=COARSE[1])


def cropped(light: np.ndarray, crop: Crop) -> np.ndarray:
    """The pictures without the shares at left, top, right and bottom, enlarged to full size."""
    if crop == WHOLE:
        return light
    left, top, right, bottom = crop
    across, down = 1 - left - right, 1 - top - bottom
    shift = SIZE[0] * left + (across - 1) / 2, SIZE[1] * top + (down - 1) / 2  # pixels are squares
    matrix = np.array([[across, 0, shift[0]], [0, down, shift[1]]], np.float32)
    flags, edge = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
    views = [
        cv2.warpAffine(each, matrix, SIZE, flags=flags, borderMode=edge)
        for each in np.ascontiguousarray(light)
    ]
    return np.stack(views)
