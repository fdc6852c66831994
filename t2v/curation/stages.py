"""The contract of a curation stage, and the table of all of them in the order they run.

A stage sees only clips that are still kept, and gives every one of them back: with scores and
tags, or with `dropped` set to the stage's name and `reason` in words. No clip ever vanishes.
Clips are never changed in place. A stage is a plain function of its input and its frozen settings;
what it loads (a model) it caches itself. There are three kinds, by what the function takes:

- `take`: `stage(take: Take, config) -> Clip`, in a worker, while the take's frames are at hand;
- `all`: `stage(clips: list[Clip], config, folder: Path) -> list[Clip]`, in the driver, over the
  whole set in a fixed order; `folder` is the output folder;
- `clip`: `stage(clip: Clip, config) -> Clip`, in a worker, one clip at a time, journaled: for what
  is slow (a captioning model) and only worth doing for clips that are still kept by then.

The settings of a stage are the field of `CurateConfig` with the stage's name. In memory
`clip.path` is absolute; the driver makes it relative to the manifest where that is possible.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from t2v.curation.frames.dedup import dedup
from t2v.curation.frames.motion import motion
from t2v.curation.frames.overlay import overlay
from t2v.curation.frames.quality import quality
from t2v.curation.text.balance import balance
from t2v.curation.text.caption import caption
from t2v.curation.text.topics import topics


@dataclass(frozen=True)
class Stage:
    """A row of `STAGES`: its name, how it is called, and the function."""

    name: str
    kind: Literal["take", "all", "clip"]
    run: Callable[..., Any]


# `probe` and `scenes` come before these: they turn a file into takes.
STAGES = (
    Stage("quality", "take", quality),  # before motion: a black clip is black, not just still
    Stage("motion", "take", motion),
    Stage("overlay", "take", overlay),
    Stage("dedup", "all", dedup),
    Stage("caption", "clip", caption),
    Stage("topics", "all", topics),
    Stage("balance", "all", balance),
)
