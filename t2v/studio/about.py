"""Recipes of finished videos as people read them: without this machine's paths, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from t2v.config.sampling import SampleConfig
from t2v.config.story import LONGEST
from t2v.queue.job import NAMED, PATHS, Job
from t2v.queue.store import told
from t2v.serve.models import Model

DEEPEST = 30  # lists and groups within each other, of a recipe from anywhere
FREE = ("prompt", "negative_prompt")  # text of people, which may begin like a path
# settings by the words for them, in the order of a table
WORDS = {
    "negative_prompt": "Without",
    "model": "Model",
    "seed": "Seed",
    "num_inference_steps": "Steps",
    "guidance_scale": "Guidance",
    "lora": "LoRA",
    "lora_scale": "Strength of LoRA",
    "image": "Begins with",
    "last_image": "Ends with",
    "video": "Goes on from",
    "mask": "Mask",
    "strength": "Change",
    "best_of": "Best of",
}
# settings that the table tells in other words, or that are of the machine
APART = (
    *("output", "width", "height", "num_frames", "duration", "fps", "upscale", "overwrite"),
    *("device", "dtype", "offload", "num_videos_per_prompt"),
)
UPLOADED = re.compile(r"([0-9a-f]{8})[0-9a-f]{24}\.\w+")  # the name of a file that a client sent
USUAL = asdict(SampleConfig())


def recipe_of(job: Job, models: Mapping[str, Model]) -> dict[str, Any]:
    """The recipe of a finished video, in which files are told by their last names.

    Args:
        models: that clients know, by their names.
    """
    values = told(job.output.with_suffix(".json")) or job.values
    names = {model.setting: model.name for model in models.values()}
    plain: dict[str, Any] = _without_paths(values, names)
    return plain


def _without_paths(value: Any, names: Mapping[str, str], key: str = "", depth: int = 0) -> Any:
    if depth > DEEPEST:
        return "(nested too deeply)"
    if isinstance(value, dict):
        return {
            _without_paths(name, names): _without_paths(each, names, name, depth + 1)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_without_paths(each, names, key, depth + 1) for each in value]
    if not isinstance(value, str) or key in FREE:
        return value
    if value in names:
        return names[value]
    is_file = key in PATHS and key not in NAMED
    is_path = value.startswith(("/", "~", "\\\\")) or "://" in value or value[1:3] == ":\\"
    return PurePath(value.replace("\\", "/")).name if is_file or is_path else value


def rows_of(recipe: Mapping[str, Any], video: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a video in words: those that people give, then others that are unusual.

    Args:
        video: as the endpoint shows it.
    """
    settings = _settings(recipe)
    rows = {"Size": str(video["size"]), "Length": _length(video, settings)}
    for name, words in WORDS.items():
        value = settings.get(name)
        if name in ("seed", "model") or not _is_usual(name, value):
            rows[words] = UPLOADED.sub(r"\1", _in_words(value))
    if (scale := settings.get("upscale")) not in (None, 1):
        rows["Enlarged"] = f"{scale} times, from {settings.get('width')}x{settings.get('height')}"
    for name, value in settings.items():
        if name not in WORDS and name not in APART and not _is_usual(name, value):
            rows[name] = _in_words(value)
    versions = recipe.get("versions")
    made = f"{versions.get('t2v')}" if isinstance(versions, Mapping) else ""
    if made:
        kind = settings.get("dtype", "")
        rows["Made by"] = f"t2v {made} on {recipe.get('device', '')} in {kind}"
    return {name: value[:300] for name, value in rows.items()}


def rate_of(recipe: Mapping[str, Any]) -> float:
    """The frames a second of a video; 24 where its recipe does not tell."""
    fps = _settings(recipe).get("fps")
    return float(fps) if isinstance(fps, int | float) and 0 < fps < 1000 else 24.0


def scenes_in(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scenes of a story with the second at which each begins; none of another video.

    A scene ends with the frame nearest to its end, counted from the beginning of the film.
    """
    story, fps = recipe.get("story"), rate_of(recipe)
    scenes = story.get("scenes") if isinstance(story, Mapping) else None
    found, passed, begin = list[dict[str, Any]](), 0.0, 0
    for scene in scenes if isinstance(scenes, Sequence) else ():
        seconds = scene.get("seconds") if isinstance(scene, Mapping) else None
        if not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST:
            return []
        found.append({"prompt": str(scene.get("prompt", "")), "begins": begin / fps})
        passed += seconds
        begin = max(begin + 1, round(passed * fps))
    return found


def _settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    settings = recipe.get("settings")
    return dict(settings) if isinstance(settings, Mapping) else {}


def _length(video: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    frames, fps = settings.get("num_frames"), settings.get("fps")
    if not isinstance(frames, int) or not isinstance(fps, int | float):
        return f"{video['seconds']} s"
    return f"{video['seconds']} s, {frames} frames at {fps:g} a second"


def _is_usual(name: str, value: Any) -> bool:
    usual = USUAL.get(name)
    if isinstance(usual, tuple):
        return value is None or value == [] or (value,) == usual or tuple(_listed(value)) == usual
    return value is None or bool(value == usual)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _in_words(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(_in_words, value)) if isinstance(value, list) else str(value)
