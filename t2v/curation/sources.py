"""The files of footage, with source, licence and caption from a table beside them."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2v.errors import UserError
from t2v.io.files import KEY, sha256
from t2v.io.manifest import VIDEO_SUFFIXES
from t2v.io.text_files import read_text

logger = logging.getLogger(__name__)
LONGEST_TABLE = 2**32  # bytes
LONGEST_BESIDE = 2**26  # bytes of a table in the folder above, which may hold anything
# The columns of a table under their common names; the first one found counts.
COLUMNS = {
    "file": ("file", "path", "filename", "file_name", "video", "name"),
    "source": ("source", "repo", "url", "origin"),
    "license": ("license", "licence", "rights"),
    "caption": ("caption", "text", "description"),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of footage: its absolute path, its name below the input, and facts from a table."""

    path: str
    name: str
    size: int
    modified: int  # nanoseconds
    source: str = ""
    license: str = ""
    caption: str = ""

    def key(self, settings: str) -> str:
        """Return a key that changes with the file, its rights or the settings, and nothing else."""
        facts = [self.name, self.size, self.modified, self.source, self.license, self.caption]
        return sha256(json.dumps([*facts, settings]))[:KEY]


def find_sources(given: str, output: Path) -> list[Source]:
    """Return the videos of a folder and its subfolders in the order of their names, or one file.

    A `.csv`, `.json` or `.jsonl` table in the folder or beside it gives source, licence and
    caption of the files it names, by path from the table's own folder.

    Raises:
        UserError: there is no such file or folder, no file is a video, or a table is unreadable.
    """
    top = Path(os.path.abspath(given))  # noqa: PTH100  a link keeps the name that the user knows
    if top.is_file():
        files, folder = [top], top.parent
    elif top.is_dir():
        files, folder = sorted(_videos(top, output.absolute())), top
    else:
        raise UserError(f"input={given}: there is no such file or folder.")
    if not files:
        raise UserError(
            f"input={given}: holds no video. Videos are recognized by their suffix: "
            f"{' '.join(sorted(VIDEO_SUFFIXES))}."
        )
    facts = _tables(folder)
    return [_source(path, folder, facts.get(path, {})) for path in files]


def _videos(top: Path, output: Path) -> Iterator[Path]:
    others = 0
    for path in top.rglob("*"):
        if path.is_dir() or path.is_relative_to(output):
            continue
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("."):
            yield path
        else:
            others += 1
    if others:
        logger.info("%s: %d files without the suffix of a video are ignored", top, others)


def _source(path: Path, folder: Path, facts: dict[str, str]) -> Source:
    name = path.relative_to(folder).as_posix()
    try:
        stat = path.stat()
    except OSError:  # a dangling link; the file fails when it is analyzed
        return Source(path=str(path), name=name, size=0, modified=0, **facts)
    return Source(path=str(path), name=name, size=stat.st_size, modified=stat.st_mtime_ns, **facts)


def _tables(folder: Path) -> dict[Path, dict[str, str]]:
    """The facts in tables in the folder and beside it, by absolute path; the nearer table wins."""
    facts: dict[Path, dict[str, str]] = {}
    for place in (folder.parent, folder):
        for suffix in ("csv", "json", "jsonl"):
            for table in sorted(place.glob(f"*.{suffix}")) if os.access(place, os.R_OK) else []:
                for row in _rows(table, place == folder):
                    name = _column(row, "file")
                    if name:
                        path = Path(os.path.abspath(place / name))  # noqa: PTH100
                        facts[path] = {
                            each: _column(row, each) for each in ("source", "license", "caption")
                        }
    return facts


def _column(row: dict[str, Any], name: str) -> str:
    lower = {str(key).strip().lower(): value for key, value in row.items()}
    values = [lower[each] for each in COLUMNS[name] if isinstance(lower.get(each), str)]
    return values[0].strip() if values else ""


def _rows(table: Path, is_ours: bool) -> list[dict[str, Any]]:
    """The rows of a table; files beside the input that cannot be read as tables are ignored."""
    try:
        rows = _parsed(table, LONGEST_TABLE if is_ours else LONGEST_BESIDE)
    except (UserError, ValueError, RecursionError, csv.Error) as error:
        if is_ours:
            raise UserError(f"{table}: cannot be read as a table ({error}). Repair it.") from error
        logger.info("%s: ignored, it cannot be read as a table (%s)", table, error)
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _parsed(table: Path, most: int) -> Any:
    text = read_text(table, most=most)
    if table.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    if table.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    return json.loads(text)
