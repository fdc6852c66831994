"""Values of a request: each of its type and within its limits, or refused by its name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from t2v.errors import shortened
from t2v.io.text_files import is_text
from t2v.serve.errors import Refused


def text_of(given: Mapping[str, Any], name: str, most: int, is_needed: bool = False) -> str:
    """A text of at most `most` characters.

    Args:
        is_needed: it may not be blank.

    Raises:
        Refused: it is missing, of another type, or too long.
    """
    text: Any = given.get(name)
    if text is None:
        raise Refused(400, f"{name} is missing.", "missing_required_parameter", name)
    if not is_text(text):
        raise wrong(name, "is no text")
    if len(text) > most:
        raise wrong(name, f"has {len(text):,} characters, and {most:,} are taken")
    if is_needed and not text.strip():
        raise wrong(name, "is empty; say what the video shows")
    return str(text)


def number_of(given: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """A number, or a text that is one, from `low` to `high`.

    Raises:
        Refused: it is none, or out of range.
    """
    value = given[name]
    try:
        number = math.nan if isinstance(value, bool | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise wrong(name, f"is {words_of(value)}; give a number from {low:g} to {high:g}")
    return number


def whole_of(given: Mapping[str, Any], name: str, high: int, least: int = 1) -> int:
    """A whole number, or a text that is one, from `least` to `high`.

    Raises:
        Refused: it is none, or out of range.
    """
    value = given[name]
    is_written = isinstance(value, str) and value.isascii() and value.isdecimal()
    if is_written and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= high:
        raise wrong(name, f"is {words_of(value)}; give a whole number from {least} to {high}")
    return value


def wrong(name: str, what: str) -> Refused:
    """The refusal of a value; `what` goes on from the name of its field."""
    return Refused(400, f"{name} {what}.", "invalid_value", name.partition("[")[0])


def words_of(value: object) -> str:
    """A value as a message shows it."""
    return "a file" if isinstance(value, bytes) else shortened(repr(value), 60)
