"""Contents of jobs: what a request asks for, with its files decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2v.config.load import load_config
from t2v.config.sampling import INPUTS, REFERENCES, SampleConfig
from t2v.config.serve import ServeConfig
from t2v.config.story import stored_story
from t2v.errors import UserError
from t2v.queue.job import Job, as_story, differences
from t2v.serve.checks import wrong
from t2v.serve.errors import Refused
from t2v.serve.fields import EDITS, GOVERNED, Wanted, check_job
from t2v.serve.shown import STATUS, story_of
from t2v.serve.together import check_files
from t2v.serve.uploads import FILES, Kept, Limits, Reference, Upload, keep, upload_of
from t2v.serve.videos import Videos

STRENGTH = 0.6  # of an edit that does not say how far it may go
OTHER = ("seconds", "seed", "best_of", "fit", *FILES, *EDITS)  # of a video that is a clip now


class Contents:
    """Contents of jobs for the videos of a server."""

    def __init__(self, videos: Videos, config: ServeConfig) -> None:
        self.videos, self.config = videos, config

    @contextmanager
    def of(
        self, wanted: Wanted, source: str | None = None, is_longer: bool = False
    ) -> Iterator[dict[str, Any]]:
        """The content of a job, with its files decoded; they go where the block fails.

        Args:
            source: the id of the video that it is made after.
            is_longer: its length is beyond that of its clip.

        Raises:
            Refused: a file is not what its field takes, or does not go with the others.
        """
        settings, kept = dict(wanted.settings), dict[str, Kept]()
        limits = Limits(seconds=self.config.max_clip, room=self.config.max_stored * 1e9)
        model = self.videos.offer.by_setting(settings)
        assert model is not None, "its fields were read"
        try:
            for name, upload in wanted.uploads.items():
                kept[name] = keep(self._data(upload, name), name, self.videos.uploads, limits)
                settings[kept[name].setting] = str(kept[name].path)
            if is_longer:
                settings["duration"] += kept["input_reference"].seconds
                if settings["duration"] > self.config.max_seconds:
                    whole, most = settings["duration"], self.config.max_seconds
                    raise wrong("seconds", f"and the clip are {whole:g} s, and {most:g} are taken")
            check_files(settings, kept, model)
            check_job(settings)
            content: dict[str, Any] = {"prompt": wanted.prompt, "settings": settings}
            if wanted.story is not None:
                content["story"] = as_story(SampleConfig(), wanted.story)["story"]
            yield content | ({} if source is None else {"remixed_from": source})
        except (Refused, UserError):
            for file in kept.values():
                file.path.unlink(missing_ok=True)
            raise

    def _data(self, upload: Upload, name: str) -> bytes | Path:
        """The bytes that a client sent, or the finished video that it names."""
        if isinstance(upload, bytes):
            return upload
        job = self.videos.job(upload.id)
        path = self.videos.file(job) if job.state == "done" else None
        if path is None:
            status = STATUS[job.state]
            why = "is kept elsewhere" if status == "completed" else f"is {status}"
            raise Refused(400, f"{name} names a video that {why}.", "video_not_ready", name)
        return path

    def of_clip(
        self, values: Mapping[str, Any], is_longer: bool
    ) -> tuple[dict[str, Any], Job | None]:
        """The fields of a video that is made of the clip in `video`, and where that is a video of
        the server, its job.

        Raises:
            Refused: a field is missing, or `video` is neither a file nor a video.
        """
        for name in ("video", "seconds") if is_longer else ("video",):
            if values.get(name) is None:
                raise Refused(400, f"{name} is missing.", "missing_required_parameter", name)
        fields = {name: each for name, each in values.items() if name != "video"}
        if not is_longer:
            fields = {"strength": STRENGTH, **fields}
        upload = upload_of(values["video"], "video")
        job = self.videos.job(upload.id) if isinstance(upload, Reference) else None
        return fields | {"input_reference": values["video"]}, job


def before(job: Job) -> Wanted:
    """A video as it was asked for: its settings that are not the defaults.

    Raises:
        Refused: its file cannot be read.
    """
    if job.problem:
        raise Refused(409, "The video's own file cannot be read.", "damaged")
    stored, story = job.settings, story_of(job)
    if "weights" in job.values:  # a recipe: what is not in it was not there yet
        stored = {"upscale": 1, "offload": "none", **stored}
    if story is not None:
        for name in ("num_frames", "upscale", *(set(INPUTS) - {REFERENCES})):  # its scenes say
            stored.pop(name, None)
    try:
        settings = {"seed": 0, **differences(load_config(SampleConfig, None, (), stored))}
    except UserError as error:
        raise Refused(409, f"The video's own settings are wrong: {error}", "damaged") from error
    scenes = None if story is None else stored_story(story, job.id)
    return Wanted(prompt=job.prompt, settings=settings, story=scenes)


def like(job: Job) -> Wanted:
    """A video of the same model, size and manner, of which nothing else is known yet.

    Raises:
        Refused: the job's file cannot be read.
    """
    asked = before(job)
    apart = {"output", *(each for name in OTHER for each in GOVERNED[name])}
    settings = {name: each for name, each in asked.settings.items() if name not in apart}
    return replace(asked, settings=settings, story=None)


def without_output(job: Job) -> dict[str, Any]:
    """The content of a job like another one, with a file of its own."""
    settings = {name: each for name, each in job.settings.items() if name != "output"}
    return {**job.values, "settings": settings, "remixed_from": job.id}
