"""Hashes that name files, settings and cached results; all SHA-256, in hex digits."""

from __future__ import annotations

import hashlib
from pathlib import Path

KEY = 32  # hex digits of a name in a cache: 128 bits


def sha256(content: bytes | str) -> str:
    """Return the hash of bytes, or of a text in UTF-8; undecodable bytes keep their value.

    The result has 64 digits; callers cut it where a file name should be short.
    """
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape")
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes, read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: object) -> str:
    """Return a hash of the `repr` of `parts`, `KEY` digits: equal parts, equal name."""
    return sha256(repr(parts))[:KEY]
