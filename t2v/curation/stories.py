"""Stories of footage: consecutive clips as the scenes of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from t2v.io.manifest import Clip

STORIES = "stories.jsonl"


def find_stories(clips: Sequence[Clip], count: int) -> list[Clip]:
    """The spans of `count` kept clips that follow each other in one file without a gap.

    Each is one clip whose `scenes` have first frame, end (exclusive) and caption. No clip is in
    two of them; a span ends where a clip was dropped, and where the picture is cropped otherwise.
    """
    found, run = [], list[Clip]()
    for clip in clips:
        run = [*run, clip] if run and _follows(run[-1], clip) else [clip]
        if not _is_told(clip):
            run = []
        if len(run) == count:
            found.append(_joined(run))
            run = []
    return found


def _is_told(clip: Clip) -> bool:
    return not clip.dropped and bool(clip.caption and clip.num_frames and clip.fps)


def _follows(before: Clip, clip: Clip) -> bool:
    if before.path != clip.path or before.end is None or before.fps is None:
        return False
    same_part = before.extra.get("crop") == clip.extra.get("crop")
    return same_part and abs(clip.start - before.end) * before.fps < 0.5


def _joined(run: Sequence[Clip]) -> Clip:
    scenes, start = [], 0
    for clip in run:
        end = start + (clip.num_frames or 0)
        scenes.append({"start": start, "end": end, "caption": clip.caption})
        start = end
    caption = " ".join(clip.caption for clip in run)
    extra = {name: value for name, value in run[0].extra.items() if name == "crop"}
    return replace(
        run[0],
        end=run[-1].end,
        num_frames=start,
        caption=caption,
        captions=(caption,),
        scores={},
        tags=(),
        extra={**extra, "scenes": scenes},
    )
