"""Shots of films that the tests make."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from t2v.curation.shot import MOTION_RATE, Shot
from t2v.io.manifest import Clip


@pytest.fixture
def shot() -> Callable[..., Shot]:
    """Makes a shot of frames, `t h w c` uint8, at 24 a second; stills are `zoom` times as large."""
    return _shot


def _shot(frames: np.ndarray, name: str = "film", fps: float = 24.0, zoom: int = 2) -> Shot:
    height, width = (zoom * side for side in frames.shape[1:3])
    shown = frames[:: max(1, round(fps / 2))]
    stills = np.stack([cv2.resize(each, (width, height)) for each in shown])
    clip = Clip(
        path=f"/{name}.mp4",
        end=len(frames) / fps,
        fps=fps,
        width=width,
        height=height,
        num_frames=len(frames),
        extra={"id": name, "shown": [width, height]},
    )
    grey = np.stack([cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in frames])
    ticks = np.arange(0, len(frames) - 1 + 1e-6, fps / MOTION_RATE)
    return Shot(
        clip=clip,
        grey=grey[(ticks + 1e-6).astype(int)],
        stills=stills,
        details=np.ascontiguousarray(grey[: len(shown), :128, :128]),
    )
