"""Fields of a video as requests have them: read, and turned into the settings of a job."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from t2v.config.checks import RANGES
from t2v.config.serve import ServeConfig
from t2v.config.story import SceneConfig, StoryConfig
from t2v.errors import UserError
from t2v.queue.job import LONGEST_PROMPT, check_settings
from t2v.serve.body import listed
from t2v.serve.checks import number_of, text_of, whole_of, words_of, wrong
from t2v.serve.errors import Refused
from t2v.serve.models import Model
from t2v.serve.offer import Offer
from t2v.serve.sizes import size_of, size_shown
from t2v.serve.uploads import FILES, Upload, upload_of

# the settings that each field stands for; where a field is given anew, none of them stays
GOVERNED: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "seconds": ("duration", "num_frames"),
    "size": ("width", "height", "upscale"),
    "fps": ("fps",),
    "negative_prompt": ("negative_prompt",),
    "num_inference_steps": ("num_inference_steps",),
    "guidance_scale": ("guidance_scale",),
    "max_error": ("max_error",),
    "min_psnr": ("min_psnr",),
    "seed": ("seed",),
    "input_reference": ("image", "video", "via_image"),
    "reference_start": ("video_start",),
    "reference_end": ("video_end",),
    "last_reference": ("last_image",),
    "subject_reference": ("reference_images",),
    "mask": ("mask",),
    "strength": ("strength",),
    "fit": ("fit",),
    "lora": ("lora", "lora_scale", "lora_part", "lora_preset", "lora_fit"),
    "best_of": ("best_of", "scorer", "keep_draws"),
}
FIELDS = ("prompt", *GOVERNED, "scenes")
FITS = ("crop", "pad", "outpaint")
MOST_FPS, MOST_LORAS, MOST_STRENGTH = 60, 8, 2
USUAL_FPS = 24.0  # of a model whose files tell none
EDITS = ("mask", "strength", "reference_start", "reference_end")  # what goes with a clip alone
CHANGES = ("last_reference", "mask", "strength")  # what becomes of a clip
BUDGETS = ("max_error", "min_psnr")
OF_SUBJECTS = "subject_reference"  # which every scene sees
NOT_IN_STORIES = ("seconds", *(set(FILES) - {OF_SUBJECTS}), *EDITS, "fit", "best_of", *BUDGETS)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A video that a client asks for.

    Args:
        settings: of the job, without the files that are not yet decoded.
        uploads: those, by their fields.
        story: of a video of several scenes.
    """

    prompt: str
    settings: dict[str, Any]
    uploads: dict[str, Upload] = field(default_factory=dict)
    story: StoryConfig | None = None


def wanted_of(
    values: Mapping[str, Any],
    config: ServeConfig,
    offer: Offer,
    before: Wanted | None = None,
) -> Wanted:
    """The video that a request asks for.

    Args:
        values: fields that are known; null takes one back to what it is when it is left out.
        before: a video whose fields stay where none is given.

    Raises:
        Refused: a field is of another type, beyond a limit, or does not go with another one.
    """
    given = {name: value for name, value in values.items() if value is not None}
    settings = dict(before.settings) if before else {}
    model = offer.of(settings, given)
    story = before.story if before and values.get("scenes", ()) == () else None
    if "scenes" in given:
        story = _story(given["scenes"], config, model)
    if before and "size" not in values and settings.get("width") and settings.get("height"):
        was = offer.by_setting(settings)
        if was is not model or (story is None) != (before.story is None):
            held: dict[str, Any] | None = None if before.story is None else {}
            given["size"] = size_shown(settings, held, was)  # of another model, by other settings
    for name in (*values, *given):
        for each in GOVERNED.get(name, ()):
            settings.pop(each, None)
    settings["model"] = model.setting
    for name, read in _readers(config, offer, model, story).items():
        if name in given:
            settings |= read(given, name)
    settings.setdefault("seed", secrets.randbelow(2**31))
    uploads = {name: upload_of(given[name], name) for name in FILES if name in given}
    prompt = _prompt(values, config, before, story)
    wanted = Wanted(prompt=prompt, settings=settings, uploads=uploads, story=story)
    _check(wanted, config, model)
    return wanted


def _prompt(
    values: Mapping[str, Any], config: ServeConfig, before: Wanted | None, story: StoryConfig | None
) -> str:
    """The prompt; of a story, those of its scenes where it has no title."""
    if values.get("prompt") is not None or (before is None and story is None):
        return text_of(values, "prompt", config.max_prompt, is_needed=True)
    if story is not None and (before is None or "scenes" in values):
        return "\n".join(scene.prompt for scene in story.scenes)
    assert before is not None
    if before.story is not None and story is None:
        raise wrong("prompt", "is missing; a video without scenes has one of its own")
    return before.prompt


Read = Callable[[Mapping[str, Any], str], dict[str, Any]]


def _readers(
    config: ServeConfig, offer: Offer, model: Model, story: StoryConfig | None
) -> dict[str, Read]:
    """The function of each field, but files, that reads its value into settings."""

    def number(setting: str, low: float, high: float) -> Read:
        return lambda given, name: {setting: number_of(given, name, low, high)}

    def whole(setting: str, high: int, least: int = 1) -> Read:
        return lambda given, name: {setting: whole_of(given, name, high, least)}

    return {
        "seconds": number("duration", 0.001, config.max_seconds),
        "size": partial(size_of, model=model, most=config.max_pixels, is_story=story is not None),
        "fps": number("fps", 1, MOST_FPS),
        "negative_prompt": lambda given, name: {name: text_of(given, name, config.max_prompt)},
        "num_inference_steps": whole("num_inference_steps", config.max_steps),
        "guidance_scale": number("guidance_scale", 0, 100),
        **{name: number(name, *RANGES[name]) for name in BUDGETS},
        "seed": whole("seed", 2**63 - 1, least=0),
        "reference_start": number("video_start", 0, 1e6),
        "reference_end": number("video_end", 0.001, 1e6),
        "strength": number("strength", 0.001, 1),
        "fit": _fit,
        "lora": partial(_loras, offer=offer),
        "best_of": whole("best_of", config.max_best_of),
    }


def _fit(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    if given[name] not in FITS:
        raise wrong(name, f"is {words_of(given[name])}; give {', '.join(FITS)}")
    return {"fit": given[name]}


def _loras(given: Mapping[str, Any], name: str, offer: Offer) -> dict[str, Any]:
    """The settings of LoRAs, `[{"name", "strength"}, ...]`."""
    paths, scales = list[str](), list[float]()
    for number, each in enumerate(listed(given[name], name, MOST_LORAS)):
        place = f"{name}[{number}]"
        if unknown := [key for key in each if key not in ("name", "strength")]:
            raise wrong(place, f"has {words_of(unknown[0])}; known are name and strength")
        lora = each.get("name")
        if not isinstance(lora, str) or lora not in offer.loras:
            known = ", ".join(offer.loras) or "none"
            raise wrong(place, f"names {words_of(lora)}; this server has {known}")
        paths.append(offer.loras[lora])
        scale = {place: each.get("strength", 1.0)}
        scales.append(number_of(scale, place, -MOST_STRENGTH, MOST_STRENGTH))
    return {"lora": paths, "lora_scale": scales} if paths else {}


def _story(value: Any, config: ServeConfig, model: Model) -> StoryConfig | None:
    """The story of `scenes`, `[{"prompt", "seconds", "start"}, ...]`; None of no scenes."""
    scenes = []
    for number, each in enumerate(listed(value, "scenes", config.max_scenes)):
        place = f"scenes[{number}]"
        if unknown := [key for key in each if key not in ("prompt", "seconds", "start")]:
            known = "prompt, seconds and start"
            raise wrong(place, f"has {words_of(unknown[0])}; known are {known}")
        text, time = f"{place}.prompt", f"{place}.seconds"
        prompt = text_of({text: each.get("prompt")}, text, config.max_prompt, is_needed=True)
        seconds = model.seconds if each.get("seconds") is None else each["seconds"]
        if seconds is None:
            raise wrong(time, "is missing, and the model tells none of its own")
        length = number_of({time: seconds}, time, 0.001, config.max_seconds)
        start = each.get("start")
        if start not in (None, "cut", "continue") or (number == 0 and start == "continue"):
            usual = "cut or, but for the first scene, continue"
            raise wrong(f"{place}.start", f"is {words_of(start)}; give {usual}")
        scenes.append(SceneConfig(prompt=prompt, seconds=length, start=start))
    if (count := sum(len(scene.prompt) + 1 for scene in scenes)) > LONGEST_PROMPT:
        raise wrong("scenes", f"has {count:,} characters, and {LONGEST_PROMPT:,} are taken")
    return StoryConfig(scenes=tuple(scenes)) if scenes else None


def _check(wanted: Wanted, config: ServeConfig, model: Model) -> None:
    """Raise `Refused` where fields do not go together or with the model, or are too much."""
    if model.distilled_steps:
        _check_student(wanted.settings, model)
    settings = wanted.settings | {name: "/" for name in wanted.uploads}
    asked = [
        name
        for name, governed in GOVERNED.items()
        if name in wanted.uploads or any(each in settings for each in governed)
    ]
    if wanted.story is not None:
        if refused := [name for name in NOT_IN_STORIES if name in asked]:
            raise wrong(refused[0], "does not go with scenes, which have their own")
        return
    if "input_reference" not in wanted.uploads:
        _check_clip(settings)
    changes = [name for name in CHANGES if name in asked]
    changes += ["fit"] if settings.get("fit") == "outpaint" else []
    if len(changes) > 1 and set(changes) not in ({"mask", "strength"}, {"mask", "fit"}):
        raise wrong(changes[0], f"does not go with {changes[1]}; give one of them")
    fps = settings.get("fps") or model.fps or USUAL_FPS
    most = config.max_seconds * max(model.fps or 0, USUAL_FPS)
    frames = settings.get("num_frames") or (settings.get("duration") or 0) * fps
    if frames > most + 1:
        raise wrong("fps", f"is {fps:g}; that is {frames:.0f} frames, and {most:.0f} are taken")
    start, end = settings.get("video_start", 0), settings.get("video_end")
    if end is not None and end <= start:
        raise wrong("reference_end", f"is {end:g}, and reference_start {start:g}; begin earlier")


def _check_student(settings: Mapping[str, Any], model: Model) -> None:
    """Raise `Refused` where a student of `t2v distill` is asked for what it has not learned."""
    is_one = f"{model.name} is a student"
    steps = ", ".join(map(str, sorted(model.distilled_steps)))
    if settings.get("num_inference_steps", model.steps) not in model.distilled_steps:
        raise wrong("num_inference_steps", f"is none of {steps}, and {is_one}; ask its teacher")
    if settings.get("guidance_scale", 1) > 1:
        raise wrong("guidance_scale", f"is more than 1, and {is_one}; ask its teacher")
    if settings.get("negative_prompt"):
        raise wrong("negative_prompt", f"is given, and {is_one}; ask its teacher")


def _check_clip(settings: Mapping[str, Any]) -> None:
    for name in EDITS:
        if "video" not in settings and any(each in settings for each in GOVERNED[name]):
            raise wrong(name, "goes with a clip; send one as input_reference")


def check_job(settings: Mapping[str, Any]) -> None:
    """Raise `Refused` where settings with all files named are none that a job may have."""
    _check_clip(settings)
    names = {each for name in FILES for each in GOVERNED[name]}
    shown = {name: f"/{name}" if name in names else each for name, each in settings.items()}
    try:
        check_settings(shown | {name: settings[name] for name in ("via_image",) if name in shown})
    except UserError as error:
        raise Refused(400, str(error), "invalid_value") from error
