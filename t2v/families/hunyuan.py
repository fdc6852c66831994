"""HunyuanVideo and HunyuanVideo 1.5, of text and of pictures."""

from __future__ import annotations

from t2v.families.record import Family, by_factor, patches

HUNYUAN = Family(
    name="HunyuanVideo",
    pipelines=("HunyuanVideoPipeline",),
    fps=24.0,
    source="save_videos_grid in sample_video.py, github.com/Tencent-Hunyuan/HunyuanVideo",
    multiple=patches,
    denormalize=by_factor,
)
HUNYUAN_I2V = Family(
    name="HunyuanVideo I2V",
    pipelines=("HunyuanVideoImageToVideoPipeline", "HunyuanSkyreelsImageToVideoPipeline"),
    fps=24.0,
    source="save_videos_grid in sample_image2video.py, HunyuanVideo-I2V",
    multiple=patches,
    resumes=False,
    why="its latents begin with the picture, which is cut off after they are decoded",
)
HUNYUAN_15 = Family(
    name="HunyuanVideo 1.5",
    pipelines=("HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline"),
    fps=24.0,
    source="generate.py, github.com/Tencent-Hunyuan/HunyuanVideo-1.5",
    multiple=patches,
    guider="guider",
    denormalize=by_factor,
)
