"""SkyReels-V2: Wan's architecture, of text and of pictures, and by diffusion forcing."""

from __future__ import annotations

from t2v.families.record import Family, by_mean_and_spread, of_one_picture, patches, with_pictures

RATE = "--fps of generate_video.py, github.com/SkyworkAI/SkyReels-V2"

SKYREELS = Family(
    name="SkyReels-V2",
    pipelines=("SkyReelsV2Pipeline", "SkyReelsV2ImageToVideoPipeline"),
    fps=24.0,
    source=RATE,
    multiple=patches,
    refuses=of_one_picture,
    denormalize=by_mean_and_spread,
)
FORCING = Family(
    name="SkyReels-V2 DF",
    pipelines=(
        "SkyReelsV2DiffusionForcingPipeline",
        "SkyReelsV2DiffusionForcingImageToVideoPipeline",
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
    ),
    fps=24.0,
    source=RATE,
    multiple=patches,
    rate="fps",
    shares=with_pictures(
        SkyReelsV2DiffusionForcingPipeline=("SkyReelsV2DiffusionForcingImageToVideoPipeline",)
    ),
    told={"overlap_history": 17},  # of its authors; without it longer videos than 97 frames end
    resumes=False,
    why="each latent frame has a scheduler and a noise level of its own, and long videos are made "
    "in windows that the call joins",
)
