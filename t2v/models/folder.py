"""Pipeline folders: finding a model, reading its index, and hashes of its weights."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub.constants import HF_HOME
from huggingface_hub.errors import (
    EntryNotFoundError,
    HTTPError,  # httpx's, under whichever name the Hub has it
)

from t2v.errors import UserError, shortened
from t2v.io.addresses import is_address
from t2v.io.files import (
    EMBEDDED,
    EMBEDDED_MODELS,
    LEARNED,
    MODULAR,
    REFERENCE,
    file_sha256,
    require_model,
    sha256,
    write_text,
)
from t2v.io.shipped import shipped
from t2v.io.text_files import check_file, read_json, reason_of

logger = logging.getLogger(__name__)

AGAIN = "Download the folder again, or save it again."
NUMBERS = {  # that a pipeline is saved with
    *("fps", "height", "width", "num_frames"),
    *("num_inference_steps", "guidance_scale", "max_sequence_length"),
}
MOST = 10**7
SHA256 = re.compile(r"[0-9a-f]{64}")
HASHES = Path(HF_HOME) / "t2v" / "hashes"  # beside the weights that the Hub keeps
LARGE = 2**24  # bytes of a file whose hash is kept; less is read sooner than it is looked up


def embedded_model(name: str = EMBEDDED) -> Path:
    """A pipeline folder that comes with t2v: in the installed package, or in a clone.

    Args:
        name: the model, or its student.

    Raises:
        UserError: this installation does not include it.
    """
    folder = shipped(name, "model_index.json")
    if folder is None:
        raise UserError(f"This installation does not include {name}. Name a --model folder.")
    return folder


def model_folder(model: str) -> Path:
    """The folder of a model: the embedded one, a folder here, or a Hub id, downloaded to the cache.

    Raises:
        UserError: there is no such model, or the Hub cannot be reached.
    """
    if is_address(model):  # of a reference to a base model: settings are brought before
        from t2v.io.working_copies import brought_folder  # few models lie at one

        model = str(brought_folder(model))
    folder = Path(model)
    if model in EMBEDDED_MODELS:
        return embedded_model(model)
    check_readable(folder / "model_index.json", f"model={model}")
    if is_pipeline(folder):
        return standard_folder(folder)
    if folder.exists():
        raise UserError(f"model={model}: {_no_pipeline(folder)}")
    require_model(model)
    try:
        return Path(DiffusionPipeline.download(model))
    except (OSError, ValueError, HTTPError) as error:
        from t2v.models.modular import download_modular  # few repositories are modular alone

        has_no_index = isinstance(error, EntryNotFoundError)  # and the Hub did answer
        modular = download_modular(model, is_offline=not has_no_index)
        if modular is not None:
            return standard_folder(modular)
        reason = error if has_no_index else error.__cause__ or error
        raise UserError(
            f"model={model}: there is no such folder here, and on the Hugging Face Hub it was not "
            f"found, or the Hub was not reached ({shortened(' '.join(str(reason).split()), 500)}). "
            "Give the path of a folder, or check the repository's name and the network."
        ) from error


def _no_pipeline(path: Path) -> str:
    """The reason that something which is there is no pipeline folder, and what to name instead."""
    if path.suffix == ".safetensors":
        return (
            "is a file, and this takes a pipeline folder. Of such files `t2v sample` takes a "
            "transformer's, with base=FOLDER."
        )
    if not path.is_dir():
        return f"is a file, and a model is a pipeline folder. The embedded one is {EMBEDDED}."
    if is_pipeline(path.absolute().parent):
        return f"is one part of a pipeline. Name the folder of all, {path.absolute().parent}."
    return (
        "has no model_index.json, so it is not a pipeline folder. Name the folder that holds one, "
        "beside transformer/ and vae/."
    )


def is_pipeline(folder: Path) -> bool:
    """True if a folder has the index of a pipeline, plain or modular."""
    return (folder / "model_index.json").is_file() or (folder / MODULAR).is_file()


def standard_folder(folder: Path) -> Path:
    """The folder itself; of one that has a modular index alone, a folder of links to its parts.

    Raises:
        UserError: see `linked_folder`.
    """
    if (folder / "model_index.json").is_file() or not (folder / MODULAR).is_file():
        return folder
    from t2v.models.modular import linked_folder  # few folders are modular

    return linked_folder(folder)


def read_index(folder: Path) -> dict[str, Any]:
    """The content of `model_index.json`: parts by name, and the numbers saved with them.

    Raises:
        UserError: it cannot be read.
    """
    path = folder / "model_index.json"
    index = read_object(path)
    name = index.get("_class_name")
    if not isinstance(name, str):
        given = shortened(repr(name)) if "_class_name" in index else "missing"
        raise UserError(
            f"{path}: _class_name is {given}; it should be the name of a pipeline, such as "
            f"WanPipeline. {AGAIN}"
        )
    for name in NUMBERS & index.keys():
        is_number = isinstance(index[name], int | float) and not isinstance(index[name], bool)
        if not is_number or not 0 <= index[name] <= MOST:
            given = shortened(repr(index[name]))
            raise UserError(f"{path}: {name} is {given}; it should be a number up to {MOST:,}.")
    return index


def read_object(path: Path, what: str = "") -> dict[str, Any]:
    """The names and values of a JSON file of a model.

    Args:
        what: the setting and its value; begins the message.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    begin = f"{what}: " if what else ""
    try:
        found = read_json(path)
    except UserError as error:
        raise UserError(f"{begin}{error} {AGAIN}") from error
    if not isinstance(found, dict):
        raise UserError(f"{begin}{path}: holds no names and values. {AGAIN}")
    return found


def check_readable(path: Path, what: str) -> None:
    """Raise `UserError` where a path cannot be looked at: its folder may not be read, or links run
    in a circle. That nothing is there is no fault here."""
    try:
        path.stat()
        if path.is_dir():
            next(path.iterdir(), None)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(
            f"{what}: {path} cannot be read ({reason_of(error)}). Make it readable, or name "
            "another folder."
        ) from error


def by_package(entry: Any) -> Any:
    """An entry of `model_index.json` that names a class of ours by its package.

    Folders written before the package was registered with diffusers name modules, which may have
    moved since.
    """
    match entry:
        case [str(library), str(name)] if library.startswith("t2v."):
            return ["t2v", name]
    return entry


@dataclass(frozen=True)
class Base:
    """The model that a checkpoint refers to, which holds what was learned alone.

    Args:
        model: the embedded one, a Hub id, or a folder, absolute or as seen from the checkpoint.
        weights: its `weights_hash`.
        share: how much of what was learned is added, from 0 to 1.
    """

    model: str
    weights: str
    share: float = 1.0


def read_base(folder: Path) -> Base | None:
    """Read the reference of a folder to its base model; None where all weights are its own.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / REFERENCE
    if not path.is_file():
        return None
    values = read_json(path)
    match values:
        case {"model": str(model), "weights": str(weights), "share": int() | float() as share}:
            return Base(model, weights, share)
    raise UserError(f'{path}: it should hold "model", "weights" and "share". Save it again.')


def base_folder(folder: Path, base: Base) -> Path:
    """The folder of the base model that `folder` refers to, with the weights it had.

    Raises:
        UserError: it moved or changed; says where its new place is written.
    """
    advice = f'Write its place as "model" into {folder / REFERENCE}.'
    place = folder / base.model
    try:
        found = standard_folder(place) if place.is_dir() else model_folder(base.model)
    except UserError as error:
        raise UserError(
            f"{folder} was trained on {base.model}, which is not there. {advice}"
        ) from error
    if weights_hash(found) != base.weights:
        raise UserError(
            f"{folder} was trained on {base.model}, and the weights in it are others now. {advice}"
        )
    return found


def weight_bytes(folder: Path) -> int:
    """The bytes of the weight files in the parts of a pipeline folder."""
    return sum(path.stat().st_size for path in folder.glob("*/*.safetensors") if path.is_file())


def weights_hash(folder: Path) -> str:
    """SHA-256 over the weights of a pipeline folder: the names and contents of its weight files.

    What else lies in the folder, such as the state of a training, does not count, and neither does
    the upscaler, which has a hash of its own: the video before it is the same without it. Where
    weights are those of a base model, its hash counts.

    Raises:
        UserError: `model_index.json` cannot be read.
    """
    parts = {name for name in read_index(folder) if not name.startswith("_")}
    base = read_base(folder)
    if base is None:
        return _parts_hash(folder, parts - {"upscaler"})
    total = hashlib.sha256(f"{base.weights} {base.share:g}\n".encode())
    for name in LEARNED:
        if (folder / name).is_file():
            total.update(f"{name} {file_hash(folder / name)}\n".encode())
    return total.hexdigest()


def scheduler_hash(folder: Path) -> str | None:
    """SHA-256 of the scheduler's settings in a pipeline folder; None where it has none."""
    path = folder / "scheduler" / "scheduler_config.json"
    return file_hash(path) if path.is_file() else None


def single_hash(file: Path, folder: Path) -> str:
    """SHA-256 over a file with a transformer's weights and the other parts of a pipeline folder.

    Raises:
        UserError: the file is not there, or `model_index.json` cannot be read.
    """
    parts = {name for name in read_index(folder) if not name.startswith("_")}
    rest = _parts_hash(folder, parts - {"upscaler", "transformer"})
    return sha256(f"{rest} {file_hash(file)}")


def upscaler_hash(folder: Path) -> str:
    """SHA-256 over the weights of the upscaler of a pipeline folder, or of its base model's.

    Raises:
        UserError: see `base_folder`.
    """
    base = read_base(folder)
    if base is not None and not any((folder / "upscaler").glob("*.safetensors")):
        return upscaler_hash(base_folder(folder, base))
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
    try:
        check_file(path, str(path))
    except UserError as error:
        raise UserError(f"{error} {AGAIN}") from error
    blob = path.resolve().name  # the Hub's cache names its files by this very hash
    if SHA256.fullmatch(blob):
        return blob
    try:
        return _hash_of(path.absolute(), *_identity(path))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({reason_of(error)}). Make it readable."
        ) from error


@cache
def _hash_of(path: Path, *identity: int) -> str:
    """The hash of a file as it was then: it is looked up once a process."""
    return kept_hash(path)


def kept_hash(path: Path) -> str:
    """SHA-256 of a file, from the user's cache if it is still the file that was hashed.

    A cache that cannot be read or written costs only time.

    Raises:
        OSError: the file cannot be read.
    """
    if path.stat().st_size < LARGE:
        return file_sha256(path)
    before = _identity(path)
    place = HASHES / f"{sha256(str(path.absolute()))}.json"
    with suppress(OSError, ValueError):
        match json.loads(place.read_text(encoding="utf-8")):
            case {"identity": known, "sha256": str(found)} if known == before:
                if SHA256.fullmatch(found):
                    return found
    found = file_sha256(path)
    if _identity(path) == before:  # nobody wrote meanwhile
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text(place, json.dumps({"identity": before, "sha256": found}))
        except OSError as error:
            logger.debug("%s: the hash is not kept (%s)", path, error)
    return found


def _identity(path: Path) -> list[int]:
    """Numbers that change with a file; its ctime does also when somebody puts the mtime back."""
    about: os.stat_result = path.stat()
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, about.st_dev]
