"""Settings of jobs and recipes, told by the names of the fields that clients know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2v.config.sampling import SampleConfig
from t2v.serve.offer import Offer
from t2v.serve.sizes import seconds_shown, size_shown
from t2v.serve.uploads import FILES

SAME = (
    *("negative_prompt", "num_inference_steps", "guidance_scale", "seed", "fps"),
    *("strength", "fit", "best_of", "max_error", "min_psnr"),
)
RENAMED = {"video_start": "reference_start", "video_end": "reference_end"}
TEXTS = ("negative_prompt", "fit")
OUR_OWN = ("output", "device", "offload", "dtype")  # of whoever makes a video, and of no client
USUAL = SampleConfig()
EXACT = 2**53  # from here on browsers read a number of JSON as another one, and text as it is


def fields_of(
    settings: Mapping[str, Any], story: Mapping[str, Any] | None, offer: Offer
) -> tuple[dict[str, Any], list[str]]:
    """The fields of settings but its files, and the settings that no field stands for.

    Args:
        settings: as a job or a recipe holds them; values of any type.
        story: likewise, where there is one.
    """
    rest = {name: each for name, each in settings.items() if not _is_usual(name, each)}
    fields: dict[str, Any] = {}
    model = offer.by_setting(settings)
    if model is not None:
        fields["model"] = model.name
        rest.pop("model", None)
    if "duration" in rest or "num_frames" in rest:
        seconds = seconds_shown(settings, None, model)
        if seconds != "auto" and story is None:
            fields["seconds"] = seconds
            rest.pop("duration", None)
            rest.pop("num_frames", None)
    size = size_shown(settings, story, model)
    if size != "auto" and any(name in rest for name in ("width", "height", "upscale")):
        fields["size"] = size
        for name in ("width", "height", "upscale"):
            rest.pop(name, None)
    fields["seed"] = 0
    for setting, name in {**dict(zip(SAME, SAME, strict=True)), **RENAMED}.items():
        if setting in rest and isinstance(rest[setting], str if name in TEXTS else int | float):
            fields[name] = rest.pop(setting)
    if abs(fields["seed"]) >= EXACT:
        fields["seed"] = str(fields["seed"])
    loras = _loras(settings, offer)
    if loras:
        fields["lora"] = loras
        rest.pop("lora")
        rest.pop("lora_scale", None)
    if story is not None:
        fields["scenes"] = [
            {name: scene[name] for name in ("prompt", "seconds", "start") if scene.get(name)}
            for scene in story.get("scenes", [])
            if isinstance(scene, Mapping)
        ]
    return fields, sorted(name for name in rest if name not in OUR_OWN)


def files_of(settings: Mapping[str, Any], url: str, uploads: Path) -> dict[str, Any]:
    """The files of a job by their fields: the kind of each, and where clients find it.

    Args:
        url: of the video.
        uploads: the folder of what clients sent; other files are not theirs to read.
    """
    found: dict[str, Any] = {}
    for name, kinds in FILES.items():
        for kind, setting in kinds.items():
            path = settings.get(setting)
            if isinstance(path, str):
                is_clip = kind == "clip" or Path(path).suffix == ".mp4"
                is_ours = Path(path).parent == uploads
                found[name] = {
                    "kind": "clip" if is_clip else "picture",
                    "url": f"{url}/inputs/{name}" if is_ours else None,
                }
                break
    return found


def _is_usual(name: str, value: Any) -> bool:
    usual = getattr(USUAL, name, None)
    if isinstance(usual, tuple) and not isinstance(value, list | tuple):
        value = () if value is None else (value,)
    return value == usual or (isinstance(usual, tuple) and tuple(value) == usual)


def _loras(settings: Mapping[str, Any], offer: Offer) -> list[dict[str, Any]]:
    """LoRAs by their names; none where one of them is no client's to ask for."""
    paths, scales = _as_list(settings.get("lora")), _as_list(settings.get("lora_scale"))
    scales = scales or [1.0]
    names = {path: name for name, path in offer.loras.items()}
    if len(scales) == 1:
        scales = scales * len(paths)
    known = all(isinstance(path, str) and path in names for path in paths)
    if len(scales) != len(paths) or not known:
        return []
    return [
        {"name": names[path], "strength": scale} for path, scale in zip(paths, scales, strict=True)
    ]


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
