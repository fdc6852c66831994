"""The settings of putting a model on the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass

from t2v.errors import UserError

MOST_VIDEOS = 4


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """`t2v push FOLDER ORG/NAME`: a pipeline folder goes to the Hugging Face Hub."""

    folder: str  # pipeline folder, such as a checkpoint of `t2v finetune`
    repo: str  # owner and name on the Hub, ORG/NAME; made where it does not exist
    private: bool = False  # only the owner sees it; of a repo that exists, nothing changes
    videos: tuple[str, ...] = ()  # up to four mp4 or webm, shown on a card that is made

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", self.repo):
            raise UserError(f"repo={self.repo}: give owner and name, as ORG/NAME.")
        if len(self.videos) > MOST_VIDEOS:
            raise UserError(f"videos: {len(self.videos)} are given. Give up to {MOST_VIDEOS}.")
        for video in self.videos:
            if not video.endswith((".mp4", ".webm")):
                raise UserError(f"videos: {video} is neither mp4 nor webm, which browsers play.")
