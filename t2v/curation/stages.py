"""The contract of a curation stage, and the stages that `t2v.config.curation.STAGES` lists.

A stage sees only clips that are still kept, and gives every one of them back: with scores and
tags, or with `dropped` set to the stage's name and `reason` in words. No clip ever vanishes.
Clips are never changed in place. A stage is a plain function of its input and its frozen settings;
what it loads (a model) it caches itself. There are three kinds, by what the function takes:

- `shot`: `stage(shot: Shot, config) -> Clip`, in a worker, while the shot's frames are at hand;
- `all`: `stage(clips: list[Clip], config, folder: Path) -> list[Clip]`, in the driver, over the
  whole set in a fixed order; `folder` is the output folder;
- `clip`: `stage(clip: Clip, config) -> Clip`, in a worker, one clip at a time, journaled: for what
  is slow (a captioning model) and only worth doing for clips that are still kept by then.

In memory `clip.path` is absolute; the driver makes it relative to the manifest where it can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from t2v.config.curation import STAGES


@dataclass(frozen=True)
class Score:
    """A score as the report explains it.

    Args:
        meaning: its unit, and what it measures.
        at_least: the setting of the stage below which a clip is dropped, by its name.
        at_most: the one above which it is.
    """

    meaning: str
    at_least: str = ""
    at_most: str = ""


@dataclass(frozen=True)
class Stage:
    """A stage: its kind, its function, and the scores that it gives clips, by name."""

    kind: Literal["shot", "all", "clip"]
    run: Callable[..., Any]
    scores: dict[str, Score] = field(default_factory=dict)


def load_stages(*kinds: str) -> dict[str, Stage]:
    """Return the stages by name in the order they run: all, or those of some kinds."""
    stages = {name: import_module(module).STAGE for name, module in STAGES.items()}
    return {name: each for name, each in stages.items() if not kinds or each.kind in kinds}
