"""Prompt files: one prompt a line."""

from __future__ import annotations

from pathlib import Path

from t2v.errors import UserError
from t2v.io.text_files import read_text


def read_prompts(file: Path, setting: str, least: int = 1) -> list[str]:
    """The lines of a prompt file that are not blank, without the spaces around them.

    Args:
        setting: what names the file, for messages.
        least: how many different prompts are needed.

    Raises:
        UserError: it cannot be read, or holds fewer.
    """
    prompts = [line.strip() for line in read_text(file, setting).splitlines() if line.strip()]
    if not prompts:
        raise UserError(f"{setting} {file}: holds no prompt. Write one a line.")
    if len(set(prompts)) < least:
        raise UserError(
            f"{setting} {file}: holds {len(set(prompts))} different prompts and {least} are "
            "needed. Write one a line."
        )
    return prompts
