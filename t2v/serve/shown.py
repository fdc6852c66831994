"""Jobs as OpenAI's videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2v.queue.job import Job
from t2v.queue.store import number, told
from t2v.serve.offer import Offer
from t2v.serve.sizes import seconds_shown, size_shown
from t2v.serve.told import RENAMED, fields_of, files_of
from t2v.serve.uploads import FILES

PREFIX = "video_"
STATUS = {
    "queued": "queued",
    "running": "in_progress",
    "done": "completed",
    "failed": "failed",
    "cancelled": "failed",
}


def shown(job: Job, offer: Offer, folder: Path, uploads: Path) -> dict[str, Any]:
    """A job as OpenAI's `Video`, with its seed and settings, and its position where it waits.

    Args:
        folder: of the queue.
        uploads: of the files that clients sent.
    """
    settings, made = job.settings, _made(job)
    model, story, id = offer.by_setting(settings), story_of(job), f"{PREFIX}{job.id}"
    ended = number(job.result, "time") if job.state in ("done", "failed", "cancelled") else 0
    share = 1.0 if job.state == "done" else number(job.progress, "share")
    fields, _ = fields_of(settings, story, offer)
    return {
        "id": id,
        "object": "video",
        "created_at": int(job.created),
        "completed_at": int(ended) or None,
        "expires_at": None,  # files stay until they are deleted
        "status": STATUS[job.state],
        "progress": int(100 * share),
        "model": "other" if model is None else model.name,
        "prompt": job.prompt,
        "seconds": made.get("seconds") or seconds_shown(settings, story, model),
        "size": made.get("size") or size_shown(settings, story, model),
        "seed": fields["seed"],
        "settings": fields | files_of(settings, f"/v1/videos/{id}", uploads),
        "position": job.position,
        "remixed_from_video_id": source_of(job),
        "error": _error(job, offer, folder),
    }


def story_of(job: Job) -> Mapping[str, Any] | None:
    """The story that a job makes, as its file holds it."""
    story = job.values.get("story")
    return story if isinstance(story, Mapping) else None


def source_of(job: Job) -> str | None:
    """The id of the video that one was made after."""
    source = job.values.get("remixed_from")
    return f"{PREFIX}{source}" if isinstance(source, str) else None


def _made(job: Job) -> dict[str, str]:
    """Length and size of a video that is finished, by its recipe."""
    if job.state != "done":
        return {}
    made = told(job.output.with_suffix(".json")).get("settings", {})
    if not isinstance(made, Mapping):
        return {}
    names = ("num_frames", "fps", "width", "height")
    frames, fps, width, height = (number(made, name) for name in names)
    scale = number(made, "upscale") or 1
    if min(frames, fps, width, height, scale) <= 0:  # it is damaged, or somebody else's
        return {}
    return {"seconds": f"{frames / fps:g}", "size": f"{width * scale:.0f}x{height * scale:.0f}"}


def _error(job: Job, offer: Offer, folder: Path) -> dict[str, str] | None:
    if job.state == "cancelled":
        return {"code": "cancelled", "message": "The video was cancelled."}
    if job.state != "failed":
        return None
    text = str(job.result.get("message") or job.problem or "It failed.")
    if "(a bug; " in text:
        text = "The server met a bug; its log says more."
    for name, kinds in FILES.items():
        for setting in kinds.values():
            text = text.replace(f"{setting}={job.settings.get(setting)}", name)
    for setting, name in RENAMED.items():
        text = text.replace(setting, name)
    for model in offer.models.values():
        text = text.replace(model.setting, model.name)
    for name, path in offer.loras.items():
        text = text.replace(path, name)
    return {"code": "generation_failed", "message": text.replace(f"{folder}/", "")[:1000]}
