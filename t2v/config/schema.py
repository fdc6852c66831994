"""The settings of a dataclass by their dotted names, and the words for what each takes."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

hints_of = cache(get_type_hints)


def settings(schema: type, built: Any = None) -> dict[str, tuple[Any, Any]]:
    """Every setting of `schema` by its dotted name: its type and default (`MISSING`: required).

    Args:
        built: where the defaults are those of a group that another one builds its own way.
    """
    hints = hints_of(schema)
    found: dict[str, tuple[Any, Any]] = {}
    for each in fields(schema):
        hint, make = hints[each.name], each.default_factory
        default = getattr(built, each.name, each.default if make is MISSING else make())
        if is_dataclass(hint):
            group = settings(cast(type, hint), None if default is MISSING else default)
            found |= {f"{each.name}.{name}": setting for name, setting in group.items()}
        else:
            found[each.name] = (hint, default)
    return found


def type_words(hint: Any) -> str:
    """A type the way help shows it: `int | null`, `muon | adamw`, `[{prompt, seconds}, ...]`."""
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        items = ("..." if each is ... else type_words(each) for each in get_args(hint))
        return f"[{', '.join(items)}]"
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(type_words(each) for each in get_args(hint))
    if is_dataclass(hint):
        return f"{{{', '.join(settings(cast(type, hint)))}}}"
    return "null" if hint is NoneType else str(hint.__name__)


def taken(hint: Any) -> str:
    """Words for what a setting of a type takes: `a whole number or null`, `muon | adamw`."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    plain[tuple[str, ...]] = "a list: [text, ...]"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(taken(each) for each in get_args(hint))
    return plain.get(hint) or type_words(hint)
