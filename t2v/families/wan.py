"""Wan 2.1 and 2.2, of text, of pictures and of control clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import DiffusionPipeline

from t2v.families.record import Family, by_mean_and_spread, of_one_picture, patches


def frames_per_second(pipeline: DiffusionPipeline) -> float:
    """16; the 5B model of 2.2, which keeps known frames as tokens, is trained at 24."""
    return 24.0 if pipeline.config.get("expand_timesteps") else 16.0


def shares(name: str, index: Mapping[str, Any]) -> tuple[str, ...]:
    """TI2V-5B begins with a picture as it is; the others with one transformer edit clips."""
    if name != "WanPipeline" or index.get("boundary_ratio") is not None:
        return ()
    return (
        "WanImageToVideoPipeline" if index.get("expand_timesteps") else "WanVideoToVideoPipeline",
    )


WAN = Family(
    name="Wan 2.1, 2.2",
    pipelines=(
        *("WanPipeline", "WanImageToVideoPipeline"),
        *("WanVideoToVideoPipeline", "WanVACEPipeline"),
    ),
    fps=frames_per_second,
    source="sample_fps in wan/configs of github.com/Wan-Video/Wan2.1 and Wan2.2",
    multiple=patches,
    refuses=of_one_picture,
    shares=shares,
    denormalize=by_mean_and_spread,
)
