"""Checkpoints that are complete or absent: `checkpoint-000500/`, hashed, renamed into place."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError

from t2v.errors import UserError
from t2v.io.addresses import address_of, publish
from t2v.io.files import REFERENCE, complete, discard, file_sha256

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
    for path in output.glob(".checkpoint-*.partial"):
        if re.fullmatch(r"\.checkpoint-\d+\.partial", path.name):  # left by a version before
            shutil.rmtree(path, ignore_errors=True)
    try:
        output.mkdir(parents=True, exist_ok=True)
        if final.exists() and address_of(final):  # which a run before could not put whole
            discard(final)
        with complete(final) as folder:
            _write_hashed(folder, write)
    except (OSError, SafetensorError) as error:
        raise not_written(final, output, error) from error
    for old in _complete(output)[: -max(1, keep)]:
        discard(old)
    publish(output)  # figures and sheets up to here
    return final


def newest_checkpoint(output: str | Path) -> Path | None:
    """The complete checkpoint with the most steps, or None."""
    found = _complete(Path(output))
    return found[-1] if found else None


def not_written(path: Path, output: Path, error: Exception) -> UserError:
    """Return the error for a disk that refused `path`, a file of the run in `output`."""
    return UserError(
        f"{path} could not be written: {error}. Last complete checkpoint: "
        f"{newest_checkpoint(output) or 'none'}. Make room, then run the same command to go on."
    )


def verify_checkpoint(folder: Path) -> None:
    """Compare every file with the hash taken when it was written.

    Raises:
        UserError: a file is missing or differs; it is named.
    """
    for name, digest in _hashes(folder).items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != digest:
            raise UserError(
                f"{path} is {'not the file that was saved' if path.is_file() else 'missing'}. "
                f"Remove {folder} to go on from the checkpoint before it."
            )


def _hashes(folder: Path) -> dict[str, str]:
    try:
        hashes = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        hashes = None
    if not (isinstance(hashes, dict) and hashes and all(map(_is_inside, hashes))):
        raise UserError(
            f"{folder / MANIFEST} is not the list of files that was saved. "
            f"Remove {folder} to go on from the checkpoint before it."
        )
    return hashes


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def _write_hashed(folder: Path, write: Callable[[Path], None]) -> None:
    folder.mkdir()
    write(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if path != folder / REFERENCE]
    manifest = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _complete(output: Path) -> list[Path]:
    found = {
        int(match[1]): path
        for path in output.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name)) and (path / MANIFEST).is_file()
    }
    return [found[step] for step in sorted(found)]
