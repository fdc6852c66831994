"""Prompts as text encoders read them, and the words in them."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable

import ftfy

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")  # noqa: RUF001
WORD_OR_SIGNS = re.compile(rf"{WORD.pattern}|[^\w\s]+")


def clean_prompt(prompt: str) -> str:
    """The prompt with repaired characters, decoded HTML entities and single spaces, as in Wan."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


def words_of(prompt: str, learned: Iterable[str]) -> list[str]:
    """The words of a prompt in small letters, each once, in order; numbers and symbols such as
    emoji count, punctuation does not.

    Args:
        learned: tokens that were learned as a whole, such as "<toy>", and are no words.
    """
    text = clean_prompt(prompt)
    for token in learned:
        text = text.replace(token, " ")
    found = WORD_OR_SIGNS.findall(text)
    pieces = (each.lower() if WORD.fullmatch(each) else _symbols(each) for each in found)
    return list(dict.fromkeys(filter(None, pieces)))


def _symbols(signs: str) -> str:
    """The emoji and other symbols of a run of signs, without the punctuation around them."""
    if not any(unicodedata.category(sign) == "So" for sign in signs):
        return ""
    return "".join(sign for sign in signs if unicodedata.category(sign)[0] != "P")
