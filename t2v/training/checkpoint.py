"""Checkpoints that are complete or absent: `checkpoint-000500/`, hashed, renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from t2v.errors import UserError

MANIFEST = "manifest.json"


def save_checkpoint(
    output: str | Path, step: int, write: Callable[[Path], None], keep: int
) -> Path:
    """Write a checkpoint, then drop all but the newest `keep`.

    `write(folder)` fills a temporary folder; every file is synced and hashed into `manifest.json`,
    which comes last, and the folder is renamed. A folder of the final name is therefore whole.

    Raises:
        UserError: the disk refused; what was written is removed and the last good one is named.
    """
    output = Path(output)
    final = output / f"checkpoint-{step:06d}"
    if (final / MANIFEST).is_file():
        return final
    temporary = output / f".{final.name}.partial"
    for left_by_a_kill in output.glob(".checkpoint-*.partial"):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    try:
        _write_synced(temporary, write)
        temporary.rename(final)
        _sync(output)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise not_written(final, output, error) from error
    for old in _complete(output)[: -max(1, keep)]:
        # renamed first: a kill in the middle must not leave half a checkpoint under its name
        shutil.rmtree(old.rename(output / f".{old.name}.partial"))
    return final


def newest_checkpoint(output: str | Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    found = _complete(Path(output))
    return found[-1] if found else None


def not_written(path: Path, output: Path, error: Exception) -> UserError:
    """What to say when the disk refused `path`, a file of the run in `output`."""
    return UserError(
        f"{path} could not be written: {error}. Last complete checkpoint: "
        f"{newest_checkpoint(output) or 'none'}. Make room, then run the same command to go on."
    )


def verify_checkpoint(folder: Path) -> None:
    """Compare every file with the hash taken when it was written.

    Raises:
        UserError: a file is missing or differs; it is named.
    """
    for name, digest in json.loads((folder / MANIFEST).read_text()).items():
        path = folder / name
        if not path.is_file() or _sha256(path) != digest:
            raise UserError(
                f"{path} is {'not the file that was saved' if path.is_file() else 'missing'}. "
                f"Remove {folder} to go on from the checkpoint before it."
            )


def _write_synced(folder: Path, write: Callable[[Path], None]) -> None:
    folder.mkdir(parents=True)
    write(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _complete(output: Path) -> list[Path]:
    found = {
        int(match[1]): path
        for path in output.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / MANIFEST).is_file()
    }
    return [found[step] for step in sorted(found)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
