"""The motion stage: how much the camera and objects move, and in which direction."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from t2v.config.curation import MotionConfig
from t2v.curation.shot import MOTION_RATE, Shot, scored
from t2v.curation.stages import Score, Stage
from t2v.io.manifest import Clip

STEP = 12  # pixels between the points at which flow is sampled
RIDGE = 1e-6 * np.eye(3)  # one row of points has no unique fit
STILL = 0.02  # pixels between two frames, below which nothing has moved
GRAIN = 0.3, 0.6  # pixels and grey levels, of 255: less of both is grain, not motion


def motion(shot: Shot, config: MotionConfig) -> Clip:
    """Return the clip with its motion scored, dropped where it is still or chaotic.

    Scores, in percent of the shorter side a second: `motion`; `camera_motion`, the best affine
    motion of the whole picture; `object_motion`, the residual. `frozen` is the share of steps in
    which nothing moves, `chaos` the share of the change that flow does not explain.
    Tags: `camera-still | camera-shake | pan-left | ... | zoom-in | ...`, `motion-low | ...`.
    """
    grey = shot.grey
    if len(grey) < 2:
        return shot.clip.drop("motion", "one frame: nothing can move")
    # flow would follow the grain
    grey = np.stack([cv2.GaussianBlur(each, (0, 0), 1.5) for each in grey])
    flow, unexplained = _flow(grey)
    camera, parts = _camera(flow, _places(*grey.shape[1:]))
    unit = 100 * MOTION_RATE / min(grey.shape[1:])
    amount = np.linalg.norm(flow, axis=-1).mean(1)  # t
    change = np.array([cv2.absdiff(*pair).mean() for pair in pairwise(grey)])
    is_grain = (amount < GRAIN[0]) & (change < GRAIN[1])
    scores = {
        "motion": amount.mean() * unit,
        "camera_motion": np.linalg.norm(camera, axis=-1).mean() * unit,
        "object_motion": np.linalg.norm(flow - camera, axis=-1).mean() * unit,
        "frozen": float(((amount < STILL) | is_grain).mean()),
        "chaos": unexplained,
    }
    parts = {name: value * unit for name, value in parts.items()}
    clip = scored(shot.clip, *_tags(scores, parts), **scores)
    if clip.scores["motion"] < config.min_motion or scores["frozen"] > config.max_frozen:
        return clip.drop(
            "motion",
            f"still: moves {scores['motion']:.2f} % a second (at least {config.min_motion:g}), "
            f"nothing in {scores['frozen']:.0%} of the time (at most {config.max_frozen:.0%})",
        )
    if scores["motion"] > config.max_motion or unexplained > config.max_chaos:
        return clip.drop(
            "motion",
            f"chaotic: moves {scores['motion']:.0f} % a second (at most {config.max_motion:g}), "
            f"{unexplained:.2f} of the change is no motion (at most {config.max_chaos:g})",
        )
    return clip


STAGE = Stage(
    "shot",
    motion,
    {
        "motion": Score("% of the shorter side per second", "min_motion", "max_motion"),
        "camera_motion": Score("the part of the motion that the whole picture shares"),
        "object_motion": Score("the part of the motion that the camera does not explain"),
        "frozen": Score("share of the time in which nothing moves", at_most="max_frozen"),
        "chaos": Score("share of the change that no motion explains", at_most="max_chaos"),
    },
)


def _flow(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """The flow of each pair at a grid of points, `t n 2` in pixels (x, y), and its residual."""
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    rows, columns = np.mgrid[: grey.shape[1], : grey.shape[2]].astype(np.float32)
    points, left = [], []
    for before, after in pairwise(grey):
        flow = finder.calc(before, after, None)  # type: ignore[call-overload]
        found = cv2.remap(after, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR)
        spread = sum(cv2.meanStdDev(each)[1].item() for each in (before, after))
        left.append(2 * float(cv2.absdiff(found, before).mean()) / max(spread, 10.0))
        points.append(flow[STEP // 2 :: STEP, STEP // 2 :: STEP].reshape(-1, 2))
    return np.stack(points).astype(np.float64), float(np.median(left))


def _places(height: int, width: int) -> np.ndarray:
    """The grid of points as `1, x, y` from the middle, in shorter sides, `n 3`."""
    rows, columns = np.mgrid[STEP // 2 : height : STEP, STEP // 2 : width : STEP]
    x, y = (columns.ravel() - width / 2), (rows.ravel() - height / 2)
    return np.stack([np.ones(x.size), x / min(height, width), y / min(height, width)], axis=1)


def _camera(flow: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """The affine motion that most points share, `t n 2`, and the mean of its parts in pixels."""
    weight = np.ones((*flow.shape[:2], 1))
    for _ in range(3):  # reweighted least squares: independent motion counts less and less
        heavy = place * weight  # t n 3
        across = heavy.swapaxes(1, 2)
        fit = np.linalg.solve(across @ place + RIDGE, across @ flow)  # t 3 2
        moved = place @ fit
        left = np.linalg.norm(flow - moved, axis=2, keepdims=True)
        weight = 1 / (0.1 + left / (0.05 + np.median(left, axis=1, keepdims=True))) ** 2
    parts = {
        "x": fit[:, 0, 0],
        "y": fit[:, 0, 1],
        "zoom": (fit[:, 1, 0] + fit[:, 2, 1]) / 2,
        "roll": (fit[:, 1, 1] - fit[:, 2, 0]) / 2,
        "shift": np.hypot(fit[:, 0, 0], fit[:, 0, 1]),
    }
    return moved, {name: float(values.mean()) for name, values in parts.items()}


def _tags(scores: dict[str, float], parts: dict[str, float]) -> list[str]:
    """Tags for the motion; `parts` in percent a second. The picture moves against the camera."""
    tags = []
    for name, back, forth in (("x", "pan-right", "pan-left"), ("y", "tilt-down", "tilt-up")):
        if abs(parts[name]) > max(2.0, 0.5 * parts["shift"]):
            tags.append(back if parts[name] < 0 else forth)
    if abs(parts["zoom"]) > 2.0:  # a percent of the shorter side, half of it to either edge
        tags.append("zoom-in" if parts["zoom"] > 0 else "zoom-out")
    if abs(parts["roll"]) > 2.0:
        tags.append("roll")
    if not tags:
        tags.append("camera-shake" if parts["shift"] > 4.0 else "camera-still")
    amount = np.digitize(scores["motion"], [2.0, 15.0])
    if scores["object_motion"] > max(1.0, 0.3 * scores["motion"]):
        tags.append("object-motion")
    return [*tags, f"motion-{('low', 'medium', 'high')[amount]}"]
