"""Captioned clips in memory, for networks that look at every clip at one size and length."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t2v.curation.text.selection import MISMATCH, NAMES
from t2v.data.buckets import Unfit
from t2v.data.decode import Transform, read_clip
from t2v.errors import UserError
from t2v.io.manifest import Clip, read_manifest
from t2v.io.progress import progress
from t2v.nets.preprocessing import sample_frames
from t2v.nets.scorer import FRAMES, SIDE

logger = logging.getLogger(__name__)

FOOTAGE = Transform(
    fps=8,
    sizes=((SIDE, SIDE),),
    lengths=(5, 9, 13, 17),
    sampling="sparse",
    max_upscale=8,
    max_repeat=8,
)


SceneRow = tuple[int, int, str]


@dataclass(frozen=True)
class Captioned:
    """Clips of one size, and all captions of each.

    `rejected` are candidates that curation or a person did not take, of each clip; it is empty
    where nothing is known of any. `scenes` are those of each clip that has several, as its row
    tells them: first frame, the frame after its last, and caption.
    """

    video: Tensor  # n t h w c, uint8
    captions: list[tuple[str, ...]]
    rejected: list[tuple[str, ...]] = field(default_factory=list)
    scenes: list[tuple[SceneRow, ...]] = field(default_factory=list)

    def __getitem__(self, span: slice) -> Captioned:
        rows = self.captions[span], self.rejected[span], self.scenes[span]
        return Captioned(self.video[span], *rows)


def read_captioned(data: str, count: int) -> Captioned:
    """At most `count` clips of one size, and their captions.

    Raises:
        UserError: no such data, clips without captions, or rendered clips of several shapes.
    """
    clips = [clip for clip in read_manifest(data) if not clip.dropped][:count]
    if mute := [clip.path for clip in clips if not clip.texts()]:
        raise UserError(
            f"{data}: {len(mute)} of its {len(clips)} clips have no caption, first {mute[0]}. "
            "Write them, or leave those clips out."
        )
    video = torch.empty(0)
    captions: list[tuple[str, ...]] = []
    rejected: list[tuple[str, ...]] = []
    scenes: list[tuple[SceneRow, ...]] = []
    for clip in progress(clips, "read", "clips"):
        try:
            frames = torch.from_numpy(read_clip(clip, FOOTAGE))
        except Unfit as reason:
            logger.warning("%s is left out: %s", clip.path, reason)
            continue
        if not clip.is_rendered:  # rendered clips keep their own length
            if len(frames) == 1:
                raise UserError(f"{clip.path}: is a picture. Give videos only.")
            frames = sample_frames(frames[None], FRAMES)[0]
        if not captions:  # filled in place: two copies may not fit the memory
            video = frames.new_empty(len(clips), *frames.shape)
        if frames.shape != video.shape[1:]:
            first, other = ("x".join(map(str, v[:3])) for v in (video.shape[1:], frames.shape))
            raise UserError(
                f"{data} holds clips of {first} and of {other} (frames x height x width), and "
                "here one shape is read. Give a folder that was rendered without shapes=."
            )
        video[len(captions)] = frames
        captions.append(clip.texts())
        rejected.append(_rejected(clip))
        scenes.append(_scenes(clip) if clip.is_rendered else ())
    if not captions:
        raise UserError(f"{data}: none of its {len(clips)} clips can be used.")
    known = rejected if any(rejected) else [], scenes if any(scenes) else []
    return Captioned(video[: len(captions)], captions, *known)


def _scenes(clip: Clip) -> tuple[SceneRow, ...]:
    rows = clip.extra.get("scenes", ())
    return tuple((row["start"], row["end"], row["caption"]) for row in rows)


def _rejected(clip: Clip) -> tuple[str, ...]:
    """The usable candidates of a clip that are none of its captions; a name of a file is none."""
    candidates = clip.extra.get("candidates")
    texts = [
        each["text"]
        for each in (candidates if isinstance(candidates, list) else ())
        if isinstance(each, dict)
        and isinstance(each.get("text"), str)
        and each.get("author") not in NAMES
        and (not each.get("verdict") or str(each["verdict"]).startswith(MISMATCH))
    ]
    return tuple(dict.fromkeys(text for text in texts if text and text not in clip.texts()))
