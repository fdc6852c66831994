"""From settings and the files they name to what a video is given to see."""

from __future__ import annotations

import logging
from dataclasses import replace

from t2v.config.sampling import INPUTS, REFERENCES, SampleConfig, one_or_more
from t2v.errors import UserError
from t2v.pipelines.generator import Generator
from t2v.pipelines.students import check_student
from t2v.pipelines.visuals import VideoCondition, VisualInputs
from t2v.sampling.reading import Clip, hashes
from t2v.sampling.recipe import Recipe

logger = logging.getLogger(__name__)

MOST = 10**4  # frames of a clip whose length is asked for by nothing else
WORDS = {"conditions": "frames at any place", "image": "a first picture", "mask": "a mask"}


def refuse_changed(old: Recipe, renamed: set[str]) -> None:
    """Raise `UserError` where a file is missing, or no longer the one a recipe was made with.

    Args:
        renamed: settings that were given again, whose files may be others.
    """
    for name, found in hashes(old.settings).items():
        known = old.inputs.get(name, "none")
        if found != known and name.partition("[")[0] not in renamed:
            raise UserError(
                f"{name}={old.settings.files[name]}: not the file it was ({found[:12]}, and the "
                f"recipe has {known[:12]}). Put that one back, or name it with {name}=FILE."
            )


def check_takes(generator: Generator, config: SampleConfig) -> None:
    """Raise `UserError` where a model cannot use what settings give it to see."""
    asked = [(name, name) for name in config.sees]
    if config.interpolate is not None:
        asked = [("interpolate", "conditions")]
    if config.via_image:
        asked.append(("via_image", "image"))
    if config.fit == "outpaint":
        asked.append(("fit", "mask"))
    seen = [f"{name}={_as_given(getattr(config, name))}" for name, _ in asked]
    check_student(generator.pipeline, seen=seen)
    if _only_edits(generator) and config.video and not (config.strength or config.mask):
        kind = type(generator.pipeline).__name__
        raise UserError(
            f"video={config.video}: a {kind} edits a clip. Say how far with strength=, such as "
            "strength=0.8."
        )
    # a clip without what is to become of it may be taken where it is not with it
    asked.sort(key=lambda each: each[1] == "video")
    for name, needed in asked:
        if needed not in generator.takes:
            kind = type(generator.pipeline).__name__
            taken = [each for each in (*INPUTS, "strength") if each in generator.takes]
            *others, last = ["text", *taken]
            shown = f"{', '.join(others)} and {last}" if others else "text alone"
            why = "" if name == needed else f" needs a model that takes {WORDS[needed]}, and"
            ending = "takes it" if name == needed else "does"
            raise UserError(
                f"{name}={_as_given(getattr(config, name))}{why or ':'} {config.model} is a "
                f"{kind} that takes {shown}. Leave {name} out, or name a model that {ending}."
            )


def _only_edits(generator: Generator) -> bool:
    """True if it changes clips, and goes on from none."""
    return {"video", "strength"} <= generator.takes and "conditions" not in generator.takes


def _as_given(value: object) -> str:
    value = one_or_more(value) if isinstance(value, tuple) else value
    return str(value).lower() if isinstance(value, bool) else str(value)


def most_frames(config: SampleConfig, own: int | None) -> int:
    """The number of frames to read of a clip: one more than can be used tells that it is longer."""
    wanted = config.num_frames or own
    return MOST if config.interpolate is not None or wanted is None else wanted + 1


def with_length(
    config: SampleConfig, clip: Clip, own: int | None, has_own_rate: bool, generator: Generator
) -> SampleConfig:
    """Settings with the number of frames, and the rate, that a clip brings.

    A clip that is edited gives its length, at most the model's own; one that is interpolated its
    frames and those between.

    Args:
        config: with its fps filled in.
        own: the model's own number of frames.
        generator: makes the video.
        has_own_rate: the fps was asked for; an interpolated clip is else shown in its own time.

    Raises:
        UserError: more is given than is asked for, or less than an edit needs.
    """
    if "video" not in clip.frames:
        return config
    if config.interpolate is not None:
        return _interpolated(config, clip, has_own_rate)
    if "mask" in clip.frames or config.strength is not None:
        return _edited(config, clip, own, goes_on=not _only_edits(generator))
    frames = config.num_frames or own
    if frames is not None and clip.total >= frames:
        edits = " or ".join(each for each in ("strength", "mask") if each in generator.takes)
        raise UserError(
            f"video={config.video}: {clip.total} frames are given at {config.fps:g} fps and "
            f"{frames} are asked for, so none is left to make. Ask for more with num_frames=N, or "
            "give less of the clip with video_start and video_end"
            f"{f', or edit it with {edits}' if edits else ''}."
        )
    return config


def _edited(config: SampleConfig, clip: Clip, own: int | None, goes_on: bool) -> SampleConfig:
    count = len(clip.frames["video"])
    wanted = config.num_frames or min(count, own or count)
    if config.makes_picture:
        wanted = 1
    if count < wanted:
        raise UserError(
            f"video={config.video}: has {count} frames at {config.fps:g} fps and {wanted} are "
            f"asked for. Ask for num_frames={count} or fewer"
            f"{', or leave mask and strength out to go on from its end' if goes_on else ''}."
        )
    if clip.total > wanted:
        logger.info("video=%s: its first %d of %d frames", config.video, wanted, clip.total)
    return replace(config, num_frames=wanted)


def _interpolated(config: SampleConfig, clip: Clip, has_own_rate: bool) -> SampleConfig:
    assert config.interpolate is not None
    count = len(clip.frames["video"])
    if count < 2:
        raise UserError(
            f"video={config.video}: has {count} frame, and interpolate={config.interpolate} puts "
            "frames between two. Give a longer clip."
        )
    frames = (count - 1) * config.interpolate + 1
    if config.num_frames not in (None, frames):
        raise UserError(
            f"num_frames={config.num_frames}: interpolate={config.interpolate} makes {frames} of "
            f"the {count} frames of video={config.video}. Leave num_frames out."
        )
    assert clip.rate is not None
    fps = config.fps if has_own_rate else clip.rate * config.interpolate
    return replace(config, num_frames=frames, fps=fps)


def visuals_of(config: SampleConfig, clip: Clip) -> VisualInputs:
    """The pictures and clips of a video, of settings and the files they name."""
    frames = clip.frames
    if config.interpolate is not None:
        kept = [
            VideoCondition(frame, number * config.interpolate)
            for number, frame in enumerate(frames["video"])
        ]
        return VisualInputs(conditions=kept)
    video, mask = frames.get("video"), frames.get("mask")
    if video is not None and (mask is not None or config.strength is not None):
        video = video[: config.num_frames]
        mask = mask if mask is None or len(mask) == 1 else mask[: config.num_frames]
    return VisualInputs(
        image=frames.get("image"),
        last_image=frames.get("last_image"),
        video=video,
        mask=mask,
        reference_images=[frames[name] for name in frames if name.startswith(REFERENCES)],
    )
