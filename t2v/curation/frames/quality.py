"""The quality stage: exposure, sharpness, noise, blockiness; aesthetics where a model is named."""

from __future__ import annotations

import cv2
import numpy as np

from t2v.config.curation import QualityConfig
from t2v.curation.shot import Shot, scored
from t2v.curation.stages import Score, Stage
from t2v.io.manifest import Clip

NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # Immerkær 1996
BLACK = 32  # of 255: brighter pictures without contrast are blank, not black
LEVELS = np.arange(256)
NOISE_ALONE = 0.7  # of the contrast: half of the picture's variance is noise


def quality(shot: Shot, config: QualityConfig) -> Clip:
    """Return the clip with its quality scored, dropped where a score is out of bounds.

    Scores, each the median over the stills: `brightness` and `contrast` of 255; `clipped`, the
    share of pixels at either end of the range; `sharpness`, the logarithm of the Laplacian's
    variance without the noise; `noise`, its standard deviation of 255; `blockiness`, how much
    larger small steps are at every eighth pixel (1: not at all). `aesthetic` by a named model.

    Raises:
        UserError: the aesthetic model cannot be loaded.
    """
    greys = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in shot.stills]
    brightness, contrast, clipped = np.median([_light(each) for each in greys], axis=0)
    scores = {
        "brightness": brightness,
        "contrast": contrast,
        "clipped": clipped,
        "sharpness": np.median([_sharpness(each) for each in greys]),
        "noise": np.median([_noise(each) for each in shot.details]),
        "blockiness": np.median([_blockiness(each) for each in shot.details]),
    }
    if config.aesthetic_model:
        from t2v.curation.frames.aesthetic import aesthetic

        scores["aesthetic"] = aesthetic(shot.stills, config.aesthetic_model)
    clip = scored(shot.clip, **scores)
    faults = _faults(clip.scores, config)
    return clip.drop("quality", "; ".join(faults)) if faults else clip


STAGE = Stage(
    "shot",
    quality,
    {
        "brightness": Score("mean, of 255", at_least="min_brightness"),
        "contrast": Score("standard deviation of the brightness, of 255", at_least="min_contrast"),
        "clipped": Score("share of pure black or pure white pixels", at_most="max_clipped"),
        "sharpness": Score("logarithm of edge strength", at_least="min_sharpness"),
        "noise": Score("standard deviation in flat areas, of 255", at_most="max_noise"),
        "blockiness": Score("steps at 8-pixel block edges; 1: none", at_most="max_blockiness"),
        "aesthetic": Score("of 10, by the model named", at_least="min_aesthetic"),
    },
)


def _faults(scores: dict[str, float], config: QualityConfig) -> list[str]:
    dark = scores["brightness"] < 128
    bounds = [
        (
            "black" if scores["brightness"] < BLACK else "blank",
            "contrast",
            config.min_contrast,
            None,
        ),
        ("under-exposed" if dark else "over-exposed", "clipped", None, config.max_clipped),
        ("dark", "brightness", config.min_brightness, None),
        ("blurred", "sharpness", config.min_sharpness, None),
        ("noisy", "noise", None, config.max_noise),
        ("blocks of compression", "blockiness", None, config.max_blockiness),
        ("plain", "aesthetic", config.min_aesthetic, None),
    ]
    is_noise = scores["noise"] > max(NOISE_ALONE * scores["contrast"], config.min_contrast / 2)
    if is_noise or scores["noise"] > config.max_noise:  # the sharpness of noise is meaningless
        bounds = [bound for bound in bounds if bound[1] != "sharpness"]
    faults = []
    if is_noise and scores["noise"] <= config.max_noise:
        faults.append(
            f"noisy: noise {scores['noise']:.2f} is most of contrast {scores['contrast']:.2f}"
        )
    for word, name, least, most in bounds:
        value = scores.get(name)
        if value is not None and least is not None and value < least:
            faults.append(f"{word}: {name} {value:.2f}, at least {least:g}")
        if value is not None and most is not None and value > most:
            faults.append(f"{word}: {name} {value:.2f}, at most {most:g}")
    return faults


def _light(grey: np.ndarray) -> tuple[float, float, float]:
    """Mean, standard deviation and the share at either end of the range."""
    share = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel() / grey.size
    mean = float(share @ LEVELS)
    clipped = share[:3].sum() + share[253:].sum()
    return mean, float(share @ (LEVELS - mean) ** 2) ** 0.5, float(clipped)


def _noise(grey: np.ndarray) -> float:
    """Standard deviation of the noise, by the flattest quarter of the tiles: elsewhere texture
    would count as noise (Immerkær 1996, with a choice of tiles)."""
    response = np.abs(cv2.filter2D(grey, cv2.CV_16S, NOISE)[1:-1, 1:-1]).astype(np.float32)
    rows, columns = (max(1, side // 16) for side in response.shape)
    whole = response[: 16 * rows, : 16 * columns]
    tiles = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    return float(np.quantile(tiles, 0.25) * np.sqrt(np.pi / 2) / 6)


def _sharpness(grey: np.ndarray) -> float:
    """The sharpness less the noise, whose variance the Laplacian multiplies by 20 (4 * 1 + 16)."""
    variance = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1].item() ** 2
    return float(np.log(max(variance - 20 * _noise(grey) ** 2, 1.0)))


def _blockiness(grey: np.ndarray) -> float:
    """The step at every eighth column and row relative to other steps; the lower of the two."""
    return min(_grid(grey.astype(np.float32)), _grid(grey.T.astype(np.float32)))


def _grid(grey: np.ndarray) -> float:
    # A block's edge is a small step everywhere; a large one is an edge in the picture.
    steps = np.minimum(np.abs(np.diff(grey, axis=1)), 8).mean(0)
    steps = steps[: len(steps) // 8 * 8].reshape(-1, 8).mean(0)
    return float((steps.max() + 0.5) / (np.median(steps) + 0.5)) if steps.size == 8 else 1.0
