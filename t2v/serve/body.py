"""Bodies of requests: JSON, or a form with files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from t2v.errors import shortened
from t2v.serve.checks import words_of, wrong
from t2v.serve.errors import Refused

MOST_FILES, MOST_FIELDS = 4, 400
# as OpenAI's client writes objects and lists into a form: a[b], and a[][b] once for each object
_INSIDE = re.compile(r"(?P<name>\w+)(?P<is_list>\[\])?\[(?P<key>\w+)\]")


async def read(request: Request, most: int, known: Sequence[str]) -> dict[str, Any]:
    """The fields of a request that are given; a null is one.

    Args:
        most: bytes of a field.
        known: names of the fields that there are.

    Raises:
        Refused: it is neither JSON nor a form, cannot be read, or has another field.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        form = await request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=most)
        values = await _fields(form.multi_items())
    elif kind == "application/json":
        values = _object(await request.body())
    elif not await request.body():
        values = {}
    else:
        raise Refused(415, "Send application/json or multipart/form-data.", "unsupported_type")
    for name in values:
        if name not in known:
            raise Refused(
                400,
                f"{words_of(name)} is no field of this request; known are {', '.join(known)}.",
                "unknown_parameter",
                shortened(name, 60),
            )
    return values


NO_LIST = "is no list of objects, as docs/serve.md shows it"


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is no JSON.", "invalid_json") from error
    if not isinstance(values, dict):
        raise Refused(400, "The body is no JSON object.", "invalid_json")
    return values


async def _fields(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    lists: dict[str, dict[str, list[Any]]] = {}
    for name, value in items:
        inside = _INSIDE.fullmatch(name)
        if inside and inside["is_list"]:
            lists.setdefault(inside["name"], {}).setdefault(inside["key"], []).append(value)
            continue
        if inside:
            outer = found.setdefault(inside["name"], {})
            if not isinstance(outer, dict) or inside["key"] in outer:
                raise _twice(inside["name"])
            outer[inside["key"]] = value
            continue
        if name in found:
            raise _twice(name)
        found[name] = await value.read() if isinstance(value, UploadFile) else value
    for name, columns in lists.items():
        if name in found:
            raise _twice(name)
        if len({len(column) for column in columns.values()}) > 1:
            raise wrong(name, f"has objects of unlike fields; send {name} as JSON")
        found[name] = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
    return found


def _twice(name: str) -> Refused:
    message = f"{words_of(name)} is given twice."
    return Refused(400, message, "invalid_value", shortened(name, 60))


def listed(value: Any, name: str, most: int) -> list[dict[str, Any]]:
    """A list of objects, which a form may hold as JSON.

    Raises:
        Refused: it is none, or has more than `most`.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise wrong(name, NO_LIST) from error
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise wrong(name, NO_LIST)
    if len(value) > most:
        raise wrong(name, f"has {len(value):,} entries, and {most} are taken")
    return value
