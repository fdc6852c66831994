"""Folders of `assets/`, which come with the package."""

from __future__ import annotations

from pathlib import Path


def shipped(name: str, file: str) -> Path | None:
    """The folder `assets/NAME` that comes with t2v, where it holds `file`."""
    package = Path(__file__).parents[1]
    folders = (package / "assets" / name, package.parent / "assets" / name)
    return next((folder for folder in folders if (folder / file).is_file()), None)
