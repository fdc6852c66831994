"""Pairs of clips for super-resolution: the scenes of a rendered folder at two sizes."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from t2v.config.load import load_config
from t2v.config.world import WorldClipsConfig
from t2v.data.world_shards import read_rendered
from t2v.errors import UserError
from t2v.io.files import sha256
from t2v.io.manifest import manifest_of
from t2v.world.render import render
from t2v.world.run import draw_story, shape_of_clip


class WorldPairs:
    """The clips of a folder of `t2v world`, each with the same scene `scale` times as large.

    Coordinates of the renderer are parts of the frame height, so both sizes show the same moments
    of the same scene. Only the settings in the folder are read: both are rendered when asked for.

    Raises:
        UserError: the folder is not finished, or has lost its settings.
    """

    def __init__(self, data: str, scale: int) -> None:
        self.count = len(read_rendered(data))
        settings = Path(data, "config.yaml")
        if not settings.is_file():
            raise UserError(
                f"{data} has no config.yaml, so its scenes cannot be rendered at another size. "
                "Render the folder again with `t2v world`."
            )
        self.config, self.scale = load_config(WorldClipsConfig, settings, []), scale
        self.sources = {"clips": sha256(manifest_of(data).read_bytes())[:16]}

    def least(self) -> tuple[int, int, int]:
        """The fewest frames, the least height and the least width of the small clips."""
        frames, heights, widths = zip(*self.config.clip_shapes(), strict=True)
        return min(frames), min(heights), min(widths)

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """The clip of a scene and the same `scale` times as large, `t h w c` uint8."""
        frames, height, width = shape_of_clip(self.config, index)
        story, _ = draw_story(self.config, index, frames)
        low, _ = render(story, frames, height, width)
        high, _ = render(story, frames, self.scale * height, self.scale * width)
        return low, high
