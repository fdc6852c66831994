"""The settings of `t2v trace`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from t2v.config.checks import at_least_one
from t2v.config.retired import Retired
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """`t2v trace VIDEO in=COLLECTION`: find the clips of a collection that a film shows."""

    # `in` is a word of Python and cannot be a field
    RETIRED: ClassVar[dict[str, Retired]] = {"in": Retired(renamed="collection")}

    video: str  # film to look for; or a manifest or folder, each clip of which is looked for
    collection: str  # manifest or folder of clips, or a folder of `t2v world`; also written in=
    json: str | None = None  # file to write with every match
    index: str | None = None  # folder of fingerprints; null: `prints` beside the collection
    correlation: float = 0.75  # of thumbnails, from which two clips are copies; 0 to 1
    overlap: float = 0.45  # share of the shorter clip that two clips must have in common
    # how many times as fast as a clip the film may play
    speeds: tuple[float, ...] = (0.5, 0.67, 0.75, 0.8, 0.9, 0.96, 1.0, 1.04, 1.1, 1.25, 1.5, 2.0)
    rows: int = 20  # matches in the table, the best first; the JSON has all
    engine: Literal["local", "ray"] = "local"  # processes here, or a Ray cluster
    workers: int = 0  # processes that read films; 0: one a core, on Ray of the whole cluster
    seconds_per_file: float = 600.0  # a file that takes longer is left out
    memory_gb: float = 8.0  # GB; a file that needs more is left out

    def __post_init__(self) -> None:
        at_least_one(self, "rows")
        for name in ("correlation", "overlap"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(
                    f"{name}={getattr(self, name)}: it must be more than 0 and at most 1."
                )
        if not self.speeds or not all(0.25 <= each <= 4 for each in self.speeds):
            raise UserError(
                f"speeds={list(self.speeds)}: give at least one, each from 0.25 to 4, for example "
                "speeds=[1]."
            )
