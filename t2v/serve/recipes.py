"""Recipes of files that clients send: the fields that they were made with."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path, PurePath
from typing import Any

from t2v.config.load import load_config
from t2v.config.sampling import SampleConfig
from t2v.config.story import WindowsConfig, stored_story
from t2v.errors import UserError, shortened
from t2v.queue.job import MOST_BYTES, check_values, differences
from t2v.serve.aside import aside
from t2v.serve.errors import Refused
from t2v.serve.offer import Offer
from t2v.serve.told import fields_of
from t2v.serve.uploads import FILES

SECONDS = 30.0  # that reading a file may take
MOST_NAMES = 200  # of settings that are looked at
KNOWN = {each.name for each in fields(SampleConfig)}
STARTS = {b"\x89PNG": ".png", b"GIF8": ".gif", b"{": ".json"}  # of files; all others are videos
NAMES = {setting: name for name, kinds in FILES.items() for setting in kinds.values()}


def told_of(data: bytes, folder: Path, offer: Offer) -> dict[str, Any]:
    """The prompt and fields of the recipe in a file, and the settings that no field stands for.

    Args:
        folder: where the file may lie for a moment.

    Raises:
        Refused: it carries no recipe, or a damaged one.
    """
    suffix = next((each for start, each in STARTS.items() if data.startswith(start)), ".mp4")
    raw = folder / f"{secrets.token_hex(16)}{suffix}"
    try:
        raw.write_bytes(data)
        values, fault = aside(_read, raw, SECONDS)
    finally:
        raw.unlink(missing_ok=True)
    if fault is not None or values is None:
        raise _refused(
            "carries no recipe that can be read; files of t2v do, unless a site or an editor "
            "removed it"
        )
    return _told(values, offer)


def _read(path: Path) -> dict[str, Any] | None:
    """The part of a recipe that says what was asked for; None of one that is too long."""
    from t2v.io.text_files import read_json
    from t2v.sampling.results import read_recipe

    values = read_json(path, most=MOST_BYTES) if path.suffix == ".json" else read_recipe(path)
    check_values(values, "the recipe")
    kept = {name: values[name] for name in ("prompt", "settings", "story") if name in values}
    return kept if len(json.dumps(kept)) <= MOST_BYTES else None


def _told(values: Mapping[str, Any], offer: Offer) -> dict[str, Any]:
    given = values["settings"]
    stored = {"upscale": 1, **{name: given[name] for name in given if name in KNOWN}}
    story = values.get("story")
    try:
        settings = differences(load_config(SampleConfig, None, (), stored))
    except UserError as error:
        raise _refused(f"carries a recipe that is damaged ({error})") from error
    if offer.by_setting(settings) is None:  # a folder is known by its last name, wherever it lay
        named = offer.models.get(PurePath(str(settings.get("model"))).name)
        settings |= {} if named is None else {"model": named.setting}
    if story is not None:
        for name in ("num_frames", "upscale"):  # of its windows, which are not enlarged
            settings.pop(name, None)
    found, rest = fields_of(settings, story, offer)
    unknown = {NAMES.get(name, name) for name in rest}
    unknown |= {shortened(name, 60) for name in [*given][:MOST_NAMES] if name not in KNOWN}
    if story is not None:
        told = stored_story(story, "the recipe")
        unknown |= {"scenes.image"} if any(scene.image for scene in told.scenes) else set()
        unknown |= {"windows"} if told.windows != WindowsConfig() else set()
    return {
        "object": "recipe",
        "prompt": values["prompt"],
        "settings": found,
        "unknown": sorted(unknown),
    }


def _refused(what: str) -> Refused:
    return Refused(400, f"The file {what}.", "no_recipe", "file")
