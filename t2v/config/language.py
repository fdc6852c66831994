"""The settings of `t2v eval language`."""

from __future__ import annotations

from dataclasses import dataclass

from t2v.config.checks import at_least_one


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """`t2v eval language`: test which captions of clips a scorer can tell from wrong ones."""

    data: str  # captioned clips: a folder of `t2v world`, a manifest or a folder of media
    scorer: str  # folder of `t2v scorer`
    json: str | None = None  # file for the figures, and for each clip the trail of its clauses
    count: int = 512  # clips, at most, the first ones
    seed: int = 0  # of what is made wrong
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps

    def __post_init__(self) -> None:
        at_least_one(self, "count")
