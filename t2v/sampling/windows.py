"""The files of a film's windows, each whole or absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2v.errors import UserError
from t2v.io.files import complete


@contextmanager
def counted(folder: Path, keys: list[str], path: Path) -> Iterator[None]:
    """Say at an end before time how much is kept."""

    def words() -> str:
        count = sum((folder / f"{key}.safetensors").exists() for key in keys)
        return f"{count} of {len(keys)} windows are kept in {folder}. The same command goes on."

    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(words()) from None
    except UserError as error:
        raise UserError(f"{error} {words()}") from error


def kept_window(path: Path) -> Tensor | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("window").clone()
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: is no window of a story ({error}). Remove it; it is made again."
        ) from error


def keep_window(path: Path, latents: Tensor) -> None:
    try:
        with complete(path) as partial:
            save_file({"window": latents.cpu().contiguous()}, partial)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: the window cannot be written ({error}). Make room.") from error
