"""A job: a recipe whose hashes may be left out, in a file that may come from anywhere."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

from t2v.config.load import load_config
from t2v.config.sampling import INPUTS, SampleConfig, one_or_more
from t2v.config.story import StoryConfig, stored_story
from t2v.errors import UserError, shortened
from t2v.io.files import EMBEDDED_MODELS, HUB_ID
from t2v.io.text_files import is_text, read_json

State = Literal["queued", "running", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
FILE_NAME = re.compile(r"(?P<place>[0-9]{16})-(?P<id>[0-9a-f]{32})\.json")
MOST_BYTES = 2**20  # of a job file: one has some hundred
LONGEST_PROMPT = 20_000  # characters
LATENTS = ".latents.safetensors"
# settings that name a file, beside the pictures and clips
PATHS = ("model", "base", "output", "scorer", "lora", *INPUTS)
NAMED = ("model", "base", "scorer")  # those that may be a Hub id
# settings that belong to a command line, or make several videos
REFUSED = {
    "overwrite": "a job replaces no file. Leave it out, or choose another output",
    "grid": "it makes several videos. Give a job to each",
    "num_videos_per_prompt": "a job is one video. Give a job to each",
    "engine": "a job is made by the worker that takes it. Leave it out",
    "workers": "a job is made by the worker that takes it. Leave it out, and start several workers",
    "parallel": "a worker is one process. Leave it out",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as its files say.

    Args:
        id: 32 hexadecimal digits, which cannot be guessed.
        place: the number that its turn goes by; only the order means something.
        created: seconds since 1970, when it was added.
        position: among the queued, from 1.
        values: what its file holds: `prompt`, `settings`, and what else a recipe has.
        problem: why its file cannot be read; it holds nothing then.
        progress: while it runs: see `docs/queue.md`.
        result: what became of it.
        has_worker: false where it runs and its worker is dead.
        files: the folder of its progress, previews and log.
        output: the video that it makes, or will make.
    """

    id: str
    state: State
    place: int
    created: float
    files: Path
    output: Path
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    position: int | None = None
    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    has_worker: bool = True

    @property
    def prompt(self) -> str:
        """The prompt; empty where the file cannot be read."""
        return str(self.values.get("prompt", ""))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that are given; all others have their defaults."""
        return dict(self.values.get("settings", {}))

    @property
    def name(self) -> str:
        """The name of its file."""
        return file_name(self.place, self.id)


def file_name(place: int, id: str) -> str:
    """The name of the file of a job, in the order of places."""
    return f"{place:016d}-{id}.json"


def read_values(path: Path) -> dict[str, Any]:
    """The content of a job file.

    Raises:
        UserError: it is no regular file, another user's, too long, or no job.
    """
    try:
        about = path.lstat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{path}: a job is a regular file, and neither a link nor a folder.")
    if hasattr(os, "geteuid") and about.st_uid not in (0, os.geteuid()):
        raise UserError(
            f"{path}: belongs to user {about.st_uid}, whose jobs user {os.geteuid()} does not run. "
            "Give both to one user."
        )
    values: Any = read_json(path, most=MOST_BYTES)
    check_values(values, str(path))
    return dict(values)


def check_values(values: Any, where: str) -> None:
    """Raise `UserError` for what is no job: it has a prompt, and settings of some kind.

    Args:
        where: begins the message.
    """
    if not isinstance(values, Mapping) or not isinstance(values.get("settings"), Mapping):
        raise UserError(f"{where}: is no job, which has `prompt` and `settings`.")
    if "story" in values:
        for scene in stored_story(values["story"], where).scenes:
            if scene.image is not None:
                _check_path("image", scene.image)
    prompt: Any = values.get("prompt")
    if not is_text(prompt) or not prompt.strip():
        given = shortened(repr(prompt))
        raise UserError(f"{where}: prompt is {given}. Give a text that says what the video shows.")
    if len(prompt) > LONGEST_PROMPT:
        raise UserError(
            f"{where}: prompt has {len(prompt):,} characters, and {LONGEST_PROMPT:,} are taken."
        )


def check_settings(stored: Mapping[str, Any], overrides: Sequence[str] = ()) -> SampleConfig:
    """The settings of a job, with `overrides` (`name=value`) over them.

    Raises:
        UserError: one is not known, of another type, out of range, a path that is not whole, or
            not for jobs.
    """
    config = load_config(SampleConfig, None, overrides, stored)
    usual = SampleConfig()
    for name, why in REFUSED.items():
        value = getattr(config, name)
        if value != getattr(usual, name):
            raise UserError(f"{name}={str(value).lower()}: {why}.")
    if config.prompting.templates == "all":
        raise UserError("prompting.templates=all: a job makes one video. Give pick, or add jobs.")
    for name in PATHS:
        values = getattr(config, name)
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None:
                _check_path(name, value)
    return config


def _check_path(name: str, value: str) -> None:
    path, given = PurePath(value), f"{name}={shortened(value)}"
    if ".." in path.parts:
        raise UserError(f"{given}: leads upwards by `..`. Give the whole path.")
    if not (path.is_absolute() or (name in NAMED and _is_name(value))):
        raise UserError(
            f"{given}: a worker may run in another folder. Give the whole path, from / on."
        )


def whole_paths(config: SampleConfig) -> SampleConfig:
    """Settings whose paths, seen from the current folder, are whole."""
    found: dict[str, Any] = {}
    for name in PATHS:
        value = getattr(config, name)
        if isinstance(value, tuple):
            found[name] = tuple(_whole(each) for each in value)
        elif value is not None and not (name in NAMED and _is_name(value)):
            found[name] = _whole(value)
    return replace(config, **found)


def _is_name(value: str) -> bool:
    """Return whether a value is the embedded model or a Hub id, and no path."""
    is_id = HUB_ID.fullmatch(value) is not None
    return value in EMBEDDED_MODELS or (is_id and not Path(value).exists())


def _whole(value: str) -> str:
    slash = "/" if value.endswith("/") else ""  # a folder of frames
    return os.path.abspath(value) + slash  # noqa: PTH100  takes `..` away too


def differences(config: SampleConfig) -> dict[str, Any]:
    """The settings that are not the defaults, as a job file holds them."""
    values, usual = asdict(config), asdict(SampleConfig())
    return {
        name: one_or_more(each) if isinstance(each, tuple) else each
        for name, each in values.items()
        if each != usual[name]
    }


def as_jobs(config: SampleConfig, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """The jobs of a command line, one for each of its videos.

    Those of an output `X.mp4` are `X.mp4, X-1.mp4, ...`; without one they are in the queue's own
    folder. Video j of a prompt has the seed `config.seed + j`, as in `t2v sample`.
    """
    config, jobs = whole_paths(config), list[dict[str, Any]]()
    if config.prompting.templates == "all":  # a job makes one video
        from t2v.prompting.templates import all_of

        prompts = [each for prompt in prompts for each in all_of(prompt)]
        config = replace(config, prompting=replace(config.prompting, templates="pick"))
    for prompt in prompts:
        for number in range(config.num_videos_per_prompt):
            seed, output = config.seed + number * config.best_of, config.output
            if output is not None and jobs:
                file, slash = PurePath(output), "/" if output.endswith("/") else ""
                output = f"{file.with_name(f'{file.stem}-{len(jobs)}{file.suffix}')}{slash}"
            alone = replace(config, num_videos_per_prompt=1, seed=seed, output=output)
            jobs.append({"prompt": prompt, "settings": differences(alone)})
    return jobs


def as_story(config: SampleConfig, story: StoryConfig) -> dict[str, Any]:
    """The job of a story."""
    prompt = "\n".join(scene.prompt for scene in story.scenes)
    settings = differences(whole_paths(config))
    stored = json.loads(json.dumps(asdict(story)))  # as a file gives it back: lists, not tuples
    return {"prompt": prompt, "settings": settings, "story": stored}


def as_repeated(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The job of a recipe, whose video is made again in the queue's own folder.

    Args:
        where: begins the message of what is no recipe.

    Raises:
        UserError: it is none.
    """
    check_values(values, where)
    settings = dict(values["settings"])
    settings.pop("output", None)
    for name in PATHS:
        value = settings.get(name)
        if isinstance(value, list):
            settings[name] = [_whole(each) if isinstance(each, str) else each for each in value]
        elif isinstance(value, str) and not (name in NAMED and _is_name(value)):
            settings[name] = _whole(value)
    return {**values, "settings": settings}
