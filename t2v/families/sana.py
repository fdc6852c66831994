"""Sana-Video, of text and of pictures."""

from __future__ import annotations

from t2v.families.record import Family, by_mean_and_spread, with_pictures

SANA = Family(
    name="Sana-Video",
    pipelines=("SanaVideoPipeline", "SanaImageToVideoPipeline"),
    fps=16.0,
    source="the example of the pipeline in diffusers",
    multiple=lambda _: 32,
    names={"num_frames": "frames"},
    shares=with_pictures(SanaVideoPipeline=("SanaImageToVideoPipeline",)),
    told={"use_resolution_binning": False},  # which would resize all but a few sizes
    denormalize=by_mean_and_spread,
)
