"""Videos of a model that show what a training clip shows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from t2v.config.trace import TraceConfig
from t2v.curation.copies.index import Collection, Part, memory_collection
from t2v.curation.copies.reading import at_rate
from t2v.curation.trace import collected, find
from t2v.evaluation.types import Videos
from t2v.io.manifest import Clip

FURTHEST = 1.0  # the distance of what no clip is like


@dataclass(frozen=True)
class Nearest:
    """The training clip that is most like a video: its distance from 0 to 1, and what it shows."""

    distance: float
    clip: str


class TrainingClips:
    """The fingerprints of training clips: a manifest, a folder of videos or of `t2v world`.

    Raises:
        UserError: there is nothing to compare with.
    """

    def __init__(self, training: str) -> None:
        self.config = TraceConfig(video=training, collection=training, speeds=(1.0,))
        self.collection = collected(training, "training", self.config)

    @property
    def distance(self) -> float:
        """The distance up to which a video is a copy, as `t2v trace` has it."""
        return 1 - self.config.correlation

    def nearest(self, videos: Videos) -> list[Nearest]:
        """Return the nearest clip of each video; one that none is like is at a distance of 1."""
        ours = _fingerprints(videos.video, videos.fps)
        best = [Nearest(FURTHEST, "")] * len(videos.video)
        wide = TraceConfig(
            video="", collection="", correlation=0.01, overlap=self.config.overlap, speeds=(1.0,)
        )
        for found in reversed(find(ours, self.collection, wide)):  # the nearest come last
            clip = found.theirs.clip
            best[int(found.ours.clip.path)] = Nearest(
                1 - found.correlation, clip.caption or clip.path
            )
        return best


def _fingerprints(videos: Tensor, fps: float) -> Collection:
    prints = [at_rate(video.cpu().numpy(), fps) for video in videos]
    parts = [Part(Clip(path=str(i)), 0.0, len(each) / fps, "") for i, each in enumerate(videos)]
    return memory_collection(parts, prints)
