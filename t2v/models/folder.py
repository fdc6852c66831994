"""Pipeline folders: finding a model, reading its index, and hashes of its weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub.errors import HTTPError  # httpx's, under whichever name the Hub has it

from t2v.errors import UserError, shortened
from t2v.io.files import file_sha256
from t2v.io.text_files import check_file, read_json

EMBEDDED = "t2v-tiny"
NUMBERS = {  # that a pipeline is saved with
    *("fps", "height", "width", "num_frames"),
    *("num_inference_steps", "guidance_scale", "max_sequence_length"),
}
MOST = 10**7
SHA256 = re.compile(r"[0-9a-f]{64}")


def embedded_model() -> Path:
    """The pipeline folder that comes with t2v: in the installed package, or in a clone.

    Raises:
        UserError: this installation does not include it.
    """
    folder = shipped(EMBEDDED, "model_index.json")
    if folder is None:
        raise UserError(f"This installation does not include {EMBEDDED}. Name a --model folder.")
    return folder


def shipped(name: str, file: str) -> Path | None:
    """The folder `assets/NAME` that comes with t2v, where it holds `file`."""
    package = Path(__file__).parents[1]
    folders = (package / "assets" / name, package.parent / "assets" / name)
    return next((folder for folder in folders if (folder / file).is_file()), None)


def model_folder(model: str) -> Path:
    """The folder of a model: the embedded one, a folder here, or a Hub id, downloaded to the cache.

    Raises:
        UserError: there is no such model, or the Hub cannot be reached.
    """
    folder = Path(model)
    if model == EMBEDDED:
        return embedded_model()
    if (folder / "model_index.json").is_file():
        return folder
    if folder.exists():
        raise UserError(f"model={model}: has no model_index.json, so it is not a pipeline folder.")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
        raise UserError(f"model={model}: there is no such folder. The embedded one is {EMBEDDED}.")
    try:
        return Path(DiffusionPipeline.download(model))
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(
            f"model={model}: neither a local folder nor found on the Hugging Face Hub: {error}"
        ) from error


def read_index(folder: Path) -> dict[str, Any]:
    """The content of `model_index.json`: parts by name, and the numbers saved with them.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / "model_index.json"
    index = read_json(path)
    if not isinstance(index, dict):
        raise UserError(f"{path}: holds no names and values, so {folder} is not a pipeline folder.")
    for name in NUMBERS & index.keys():
        is_number = isinstance(index[name], int | float) and not isinstance(index[name], bool)
        if not is_number or not 0 <= index[name] <= MOST:
            given = shortened(repr(index[name]))
            raise UserError(f"{path}: {name} is {given}; it should be a number up to {MOST:,}.")
    return index


def by_package(entry: Any) -> Any:
    """An entry of `model_index.json` that names a class of ours by its package.

    Folders written before the package was registered with diffusers name modules, which may have
    moved since.
    """
    match entry:
        case [str(library), str(name)] if library.startswith("t2v."):
            return ["t2v", name]
    return entry


def weights_hash(folder: Path) -> str:
    """SHA-256 over the weights of a pipeline folder: the names and contents of its weight files.

    What else lies in the folder, such as the state of a training, does not count, and neither does
    the upscaler, which has a hash of its own: the video before it is the same without it.

    Raises:
        UserError: `model_index.json` cannot be read.
    """
    parts = {name for name in read_index(folder) if not name.startswith("_")}
    return _parts_hash(folder, parts - {"upscaler"})


def upscaler_hash(folder: Path) -> str:
    """SHA-256 over the weights of the upscaler of a pipeline folder."""
    return _parts_hash(folder, {"upscaler"})


def _parts_hash(folder: Path, parts: Collection[str]) -> str:
    total = hashlib.sha256()
    for part in sorted(parts):
        for path in sorted((folder / part).rglob("*")):
            if path.suffix in (".safetensors", ".bin"):
                total.update(f"{path.relative_to(folder).as_posix()} {file_hash(path)}\n".encode())
    return total.hexdigest()


def files_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a folder, hidden ones left out."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            total.update(f"{name.as_posix()} {file_hash(path)}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        UserError: it is no file but, say, a pipe, which would never end.
    """
    check_file(path, str(path))
    blob = path.resolve().name  # the Hub's cache names its files by this very hash
    if SHA256.fullmatch(blob):
        return blob
    return file_sha256(path)
