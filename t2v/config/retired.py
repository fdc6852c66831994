"""Settings of earlier versions, so that files which hold them go on loading."""

from __future__ import annotations

from collections.abc import Container
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

    def current_name(self, name: str, value: Any, given: str, in_file: bool) -> str | None:
        """Return today's name of the setting, or None where it may be dropped.

        Args:
            name: its old name, dotted.
            value: as given, in Python's types.
            given: the setting as messages quote it.
            in_file: whether a file holds it, which an earlier version may have written.

        Raises:
            UserError: it asks for what the command does no more.
        """
        if self.renamed is not None:
            return self.renamed
        if in_file and value in self.neutral:
            return None
        raise UserError(f"{given}: {name} is no longer a setting of this command. {self.instead}")
