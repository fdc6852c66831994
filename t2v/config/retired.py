"""Settings of earlier versions, so that files which hold them go on loading."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from t2v.errors import UserError


class _AnyValue:
    def __contains__(self, value: object) -> bool:
        return True


ANY_VALUE = _AnyValue()  # neutral values of a setting that had no effect


@dataclass(frozen=True)
class Retired:
    """A setting that a command had once; a schema lists its own as `RETIRED: ClassVar`.

    Args:
        instead: what to do now, a sentence for the message.
        neutral: values that ask for what the command does anyway; in files they are dropped.
        renamed: today's name, which takes the value.
    """

    instead: str = ""
    neutral: Container[Any] = ()
    renamed: str | None = None


def current_name(
    name: str, value: Any, given: str, retired: Mapping[str, Retired], in_file: bool
) -> str | None:
    """Return today's name of a setting, or None where a retired one may be dropped.

    Args:
        name: as given, dotted.
        value: as given, in Python's types.
        given: the setting as messages quote it.
        in_file: whether a file holds it, which an earlier version may have written.

    Raises:
        UserError: a retired setting that asks for what the command does no more.
    """
    if name not in retired:
        return name
    old = retired[name]
    if old.renamed is not None:
        return old.renamed
    if in_file and value in old.neutral:
        return None
    raise UserError(f"{given}: {name} is no setting here any more. {old.instead}")
