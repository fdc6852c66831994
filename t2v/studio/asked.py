"""Numbers that an address asks for."""

from __future__ import annotations

from t2v.serve.errors import Refused

LONGEST = 12  # digits


def whole(name: str, text: str, least: int, most: int) -> int:
    """The whole number of a text.

    Args:
        name: of the part of the address, for the message.

    Raises:
        Refused: it is none, or not from `least` to `most`.
    """
    is_number = text.isascii() and text.isdecimal() and len(text) <= LONGEST
    if is_number and least <= int(text) <= most:
        return int(text)
    raise Refused(400, f"{name} must be from {least} to {most}.", "invalid_value", name)
