"""Requests for videos: JSON or a form is read, and becomes the settings of a job."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from t2v.config.serve import ServeConfig
from t2v.errors import UserError, shortened
from t2v.io.text_files import is_text
from t2v.queue.job import check_settings
from t2v.serve.errors import Refused
from t2v.serve.models import Model

FIELDS = (
    *("model", "prompt", "seconds", "size", "input_reference", "negative_prompt"),
    *("num_inference_steps", "guidance_scale", "seed"),
)
PICTURE = "input_reference[image_url]"  # as OpenAI's client writes an object into a form
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_DATA = re.compile(r"data:image/[\w.+-]+;base64,")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A video that a client asks for.

    Args:
        settings: of the job, without its picture.
        picture: the bytes of a file that the video begins with, not yet decoded.
    """

    prompt: str
    settings: dict[str, Any]
    picture: bytes | None


async def read(request: Request, most: int) -> dict[str, Any]:
    """The fields of a request, as JSON or a form has them.

    Args:
        most: bytes of a field.

    Raises:
        Refused: it is neither, or cannot be read.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        form = await request.form(max_files=1, max_fields=len(FIELDS), max_part_size=most)
        return await _fields(form.multi_items())
    if kind != "application/json":
        raise Refused(415, "Send application/json or multipart/form-data.", "unsupported_type")
    try:
        values = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is no JSON.", "invalid_json") from error
    if not isinstance(values, dict):
        raise Refused(400, "The body is no JSON object.", "invalid_json")
    return values


async def _fields(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in items:
        if name == PICTURE:
            name, value = "input_reference", {"image_url": value}
        if name in found:
            message = f"{_shown(name)} is given twice."
            raise Refused(400, message, "invalid_value", shortened(name, 60))
        found[name] = await value.read() if isinstance(value, UploadFile) else value
    return found


def wanted_of(
    values: Mapping[str, Any], config: ServeConfig, models: Mapping[str, Model]
) -> Wanted:
    """The video that a request asks for.

    Raises:
        Refused: a field is not known, of another type, or beyond a limit.
    """
    for name in values:
        if name not in FIELDS:
            raise Refused(
                400,
                f"{_shown(name)} is no field of a video; known are {', '.join(FIELDS)}.",
                "unknown_parameter",
                shortened(name, 60),
            )
    given = {name: value for name, value in values.items() if value is not None}
    model = _model(given, models)
    settings: dict[str, Any] = {"model": model.setting}
    if "seconds" in given:
        settings["duration"] = _number(given, "seconds", 0.001, config.max_seconds)
    if "size" in given:
        settings |= _size(given["size"], model, config.max_pixels)
    if "num_inference_steps" in given:
        settings["num_inference_steps"] = _whole(given, "num_inference_steps", config.max_steps)
    if "guidance_scale" in given:
        settings["guidance_scale"] = _number(given, "guidance_scale", 0, 100)
    if "negative_prompt" in given:
        settings["negative_prompt"] = _text(given, "negative_prompt", config.max_prompt)
    seed = (
        _whole(given, "seed", 2**63 - 1, least=0) if "seed" in given else secrets.randbelow(2**31)
    )
    settings["seed"] = seed
    prompt = _text(given, "prompt", config.max_prompt)
    if not prompt.strip():
        raise _wrong("prompt", "is empty; say what the video shows")
    _check(settings)
    return Wanted(prompt=prompt, settings=settings, picture=_picture(given.get("input_reference")))


def _check(settings: Mapping[str, Any]) -> None:
    try:
        check_settings(settings)
    except UserError as error:
        raise Refused(400, str(error), "invalid_value") from error


def _model(given: Mapping[str, Any], models: Mapping[str, Model]) -> Model:
    name = given.get("model", next(iter(models)))
    if not isinstance(name, str) or name not in models:
        raise Refused(
            404,
            f"There is no model {_shown(name)} here; there are {', '.join(models)}.",
            "model_not_found",
            "model",
        )
    return models[name]


def _text(given: Mapping[str, Any], name: str, most: int) -> str:
    text: Any = given.get(name)
    if text is None:
        raise Refused(400, f"{name} is missing.", "missing_required_parameter", name)
    if not is_text(text):
        raise _wrong(name, "is no text")
    if len(text) > most:
        raise _wrong(name, f"has {len(text):,} characters, and {most:,} are taken")
    return str(text)


def _number(given: Mapping[str, Any], name: str, low: float, high: float) -> float:
    value = given[name]
    try:
        number = math.nan if isinstance(value, bool | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise _wrong(name, f"is {_shown(value)}; give a number from {low:g} to {high:g}")
    return number


def _whole(given: Mapping[str, Any], name: str, high: int, least: int = 1) -> int:
    value = given[name]
    is_written = isinstance(value, str) and value.isascii() and value.isdecimal()
    if is_written and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= high:
        raise _wrong(name, f"is {_shown(value)}; give a whole number from {least} to {high}")
    return value


def _size(value: Any, model: Model, most: int) -> dict[str, int]:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not width or not height:
        raise _wrong("size", f"is {_shown(value)}; give width and height, as {model.size}")
    if width * height > most:
        raise _wrong("size", f"is {value}, {width * height:,} pixels, and {most:,} are taken")
    made = model.made_at(width, height)
    if made["width"] % model.step or made["height"] % model.step:
        multiple = model.step * made["upscale"]
        raise _wrong("size", f"is {value}; sides of this size are multiples of {multiple}")
    return made


def _picture(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    address = value.get("image_url") if isinstance(value, Mapping) else None
    if not isinstance(address, str):
        raise _wrong("input_reference", "is no file, and no object with image_url")
    start = _DATA.match(address)
    if start is None:
        raise _wrong(
            "input_reference",
            "names an address, and nothing is fetched; send the file, or a data:image/...;base64, "
            "address",
        )
    try:
        return base64.b64decode(address[start.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong("input_reference", "is no base64") from error


def _wrong(name: str, what: str) -> Refused:
    return Refused(400, f"{name} {what}.", "invalid_value", name)


def _shown(value: object) -> str:
    return "a file" if isinstance(value, bytes) else shortened(repr(value), 60)
