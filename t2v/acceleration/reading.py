"""Values of JSON as dataclasses, each of the type that its field has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from t2v.config.schema import hints_of, taken
from t2v.errors import UserError, shortened

LARGEST = 1e300  # a number beyond it is no measurement
ITEMS = {"tables": "table", "rows": "row"}  # what one of them is called, counted from 1


def typed(hint: Any, value: Any, *place: str) -> Any:
    """A value of JSON as its type says: dataclasses of objects, tuples of lists.

    Args:
        hint: a dataclass, `X | None`, `tuple`, `dict[str, X]`, `Any`, or a plain type.
        place: where the value stands in its file, from the outside in, for messages.

    Raises:
        UserError: it, or something in it, is of another type, missing or not known; begins with
            the place.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (hint,) = (each for each in args if each is not NoneType)
        return None if value is None else typed(hint, value, *place)
    if is_dataclass(hint) and isinstance(value, dict):
        return _built(hint, value, place)
    if origin is tuple and isinstance(value, list):
        kinds = [args[0]] * len(value) if args[-1] is ... else list(args)
        if len(kinds) == len(value):
            return tuple(
                typed(kind, each, *_item(place, number))
                for number, (kind, each) in enumerate(zip(kinds, value, strict=True), 1)
            )
    if origin is dict and isinstance(value, dict):
        return {name: typed(args[1], each, *place, name) for name, each in value.items()}
    if hint is Any or (hint in (str, int) and type(value) is hint):
        return value
    if hint is float and type(value) in (int, float) and abs(value) <= LARGEST:
        return float(value)
    kind = taken(hint)
    if origin is tuple:
        kind = "a list" if args[-1] is ... else f"a list of {len(args)}"
    if is_dataclass(hint) or origin is dict:
        kind = "a group of named values"
    raise UserError(f"{_said(place)} is {shortened(json.dumps(value), 60)}, not {kind}")


def _built(kind: Any, values: dict[str, Any], place: Sequence[str]) -> Any:
    known, hints = {each.name: each for each in fields(kind)}, hints_of(kind)
    if extra := values.keys() - known.keys():
        raise UserError(f"{_said((*place, min(extra)))} is not known")
    needed = {
        name
        for name, each in known.items()
        if each.default is MISSING and each.default_factory is MISSING
    }
    if missing := needed - values.keys():
        raise UserError(f"{_said((*place, min(missing)))} is missing")
    return kind(**{name: typed(hints[name], each, *place, name) for name, each in values.items()})


def _item(place: Sequence[str], number: int) -> tuple[str, ...]:
    *outer, last = place
    return *outer, f"{ITEMS.get(last, last)} {number}"


def _said(place: Sequence[str]) -> str:
    """`table 1, row 3, measured: most_error`, or what a file holds as a whole."""
    *outer, last = place or ("the file",)
    return f"{', '.join(outer)}: {last}" if outer else last
