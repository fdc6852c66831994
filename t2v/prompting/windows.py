"""Long texts in windows that fit a text encoder."""

from __future__ import annotations

import re
from typing import Any

from t2v.errors import UserError
from t2v.models.text import count_tokens

# where a text may be cut, the better places first: after a sentence, after a clause, at a blank
CUTS = (re.compile(r"(?<=[.!?;])\s+"), re.compile(r"(?<=[,:])\s+"), re.compile(r"\s+"))
FILLED = 0.5  # least share of a window that a better cut may leave
MOST = 16  # windows: each costs as much attention as a whole prompt


def windows(tokenizer: Any, text: str, limit: int) -> list[tuple[int, str]]:
    """Parts of a text of at most `limit` tokens each, and the place where each begins.

    A part ends with a sentence if that leaves it at least half full, else with a clause, else with
    a word. One that fits is one part.

    Raises:
        UserError: a single word takes more tokens, or there would be more than 16 windows.
    """
    count = count_tokens(tokenizer, text)
    if count > MOST * limit:
        raise UserError(
            f"The prompt takes {count} tokens, and {MOST} windows of {limit} are the most: "
            f"{text[:60]!r}... Shorten it."
        )
    found, start = [], 0
    while start < len(text):
        end = _end(tokenizer, text, start, limit)
        found.append((start, text[start:end].rstrip()))
        start = end + len(text[end:]) - len(text[end:].lstrip())
    return found or [(0, text)]


def _end(tokenizer: Any, text: str, start: int, limit: int) -> int:
    """The place behind the window that begins at `start`."""
    if count_tokens(tokenizer, text[start:]) <= limit:
        return len(text)
    words = [found.start() for found in CUTS[-1].finditer(text, start + 1)]
    low, high = 0, len(words)  # words[:low] fit
    while low < high:
        middle = (low + high + 1) // 2
        fits = count_tokens(tokenizer, text[start : words[middle - 1]]) <= limit
        low, high = (middle, high) if fits else (low, middle - 1)
    if not low:
        raise UserError(
            f"prompt: the word {text[start:].split()[0][:40]!r}... takes more than the {limit} "
            "tokens of a window. Shorten it."
        )
    last = words[low - 1]
    for cut in CUTS[:-1]:
        ends = [found.start() for found in cut.finditer(text, start, last + 1)]
        ends = [end for end in ends if end - start >= FILLED * (last - start)]
        if ends:
            return ends[-1]
    return last
