"""Folders of diffusers' modular pipelines, whose index says where each part lies."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import diffusers
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.constants import HF_HOME
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError

from t2v.errors import UserError, shortened
from t2v.io.files import HUB_ID, MODULAR, complete, sha256
from t2v.io.text_files import read_json

VIEWS = Path(HF_HOME) / "t2v" / "modular"
# the pipelines that compute with the same parts: the first one whose parts are all there
STANDARD: dict[str, tuple[str, ...]] = {
    "WanModularPipeline": ("WanPipeline",),
    "Wan22ModularPipeline": ("WanPipeline",),
    "WanImage2VideoModularPipeline": ("WanImageToVideoPipeline",),
    "Wan22Image2VideoModularPipeline": ("WanImageToVideoPipeline",),
    "Wan22VaceModularPipeline": ("WanVACEPipeline",),
    "LTXModularPipeline": ("LTXPipeline",),
    "LTX2ModularPipeline": ("LTX2Pipeline",),
    "HunyuanVideo15ModularPipeline": (
        *("HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo15Pipeline"),
    ),
}
MADE = {"self", "guider"}  # that no folder holds
Parts = dict[str, tuple[list[Any], Path]]  # by name: library and class, and the folder


def linked_folder(folder: Path) -> Path:
    """A pipeline folder, in the user's cache, of links to the parts that a modular folder names.

    Raises:
        UserError: the index cannot be read, no pipeline computes with its parts, or parts lie in
            repositories that are not here; names them all.
    """
    index, what = _read(folder), f"model={folder}"
    name = str(index.get("_class_name"))
    if name not in STANDARD:
        raise UserError(
            f"{what}: is a {shortened(name)}, beside which diffusers has no other pipeline that "
            f"makes videos with its parts. Modular folders that load: {', '.join(STANDARD)}."
        )
    parts, absent = _find(folder, index)
    for standard in STANDARD[name]:
        taken = inspect.signature(getattr(diffusers, standard).__init__).parameters
        needed = {own for own, about in taken.items() if about.default is about.empty}
        missing = needed - MADE - parts.keys()
        if not missing:
            break
    if lacking := missing | (absent.keys() & taken.keys()):
        _refuse(what, {own: absent.get(own) for own in sorted(lacking)})
    saved = {own: index[own] for own in taken if own in index and own not in _specs(index)}
    made = getattr(diffusers, name)() if "guider" in needed else None
    return _linked(standard, {own: parts[own] for own in taken if own in parts}, saved, made)


def download_modular(model: str, is_offline: bool) -> Path | None:
    """Download a Hub repository with a modular index, and its own parts; returns their folder.

    None where no such repository or no such index is found.

    Args:
        is_offline: look for the index in the cache alone.

    Raises:
        UserError: the parts cannot be downloaded.
    """
    try:
        index = _read(Path(hf_hub_download(model, MODULAR, local_files_only=is_offline)).parent)
    except (OSError, ValueError, HTTPError):
        return None
    own = [
        f"{about.get('subfolder') or name}/*"
        for name, about in _specs(index).items()
        if not HUB_ID.fullmatch(_repo(about) or "") or _repo(about) == model
    ]
    try:
        return Path(snapshot_download(model, allow_patterns=[MODULAR, *own]))
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(f"model={model}: its parts cannot be downloaded. {error}") from error


def _read(folder: Path) -> dict[str, Any]:
    index = read_json(folder / MODULAR)
    if not isinstance(index, dict):
        raise UserError(f"{folder / MODULAR}: holds no names and values. Download it again.")
    return index


def _specs(index: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The words of an index on where each part lies."""
    return {
        name: entry[2]
        for name, entry in index.items()
        if isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], dict)
    }


def _repo(spec: Mapping[str, Any]) -> str | None:
    """The repository or folder of a part, under its name of today or of before."""
    found = spec.get("pretrained_model_name_or_path") or spec.get("repo")
    return None if found is None else str(found)


def _find(folder: Path, index: Mapping[str, Any]) -> tuple[Parts, dict[str, str]]:
    """The parts of an index that are here, and the repositories of those that are not."""
    parts: Parts = {}
    absent = {}
    for name, spec in _specs(index).items():
        library, kind = index[name][:2]
        if kind is None:
            library, kind = spec.get("type_hint") or (None, None)
        if kind is None:  # as of an optional part that the pipeline was made without
            continue
        repo, below = _repo(spec), str(spec.get("subfolder") or "")
        place = _place(folder, repo, below, spec.get("revision"))
        if place is not None:
            parts[name] = [library, kind], place
        elif repo is not None:
            absent[name] = f"{repo}/{below}" if below else repo
    return parts, absent


def _place(folder: Path, repo: str | None, below: str, revision: str | None) -> Path | None:
    """The folder of a part: beside its index, where that says, or in the Hub's cache."""
    places = [folder, *([] if repo is None else [Path(repo), folder / repo])]
    if repo is not None and HUB_ID.fullmatch(repo):
        with suppress(LocalEntryNotFoundError, HFValidationError):
            snapshot = snapshot_download(
                repo,
                revision=revision,
                local_files_only=True,
                allow_patterns=f"{below}/*" if below else None,
            )
            places.append(Path(snapshot))
    found = (each / below for each in places)
    return next((each.absolute() for each in found if any(each.glob("*config*.json"))), None)


def _refuse(what: str, lacking: Mapping[str, str | None]) -> NoReturn:
    told = [f"{name} from {repo}" for name, repo in lacking.items() if repo is not None]
    unsaid = [name for name, repo in lacking.items() if repo is None]
    repos = sorted(
        {"/".join(repo.split("/")[:2]) for repo in lacking.values() if repo and repo[0] != "/"}
    )
    words = [f"its {MODULAR} takes {', '.join(told)}, not here" if told else ""]
    words.append(f"it does not say where {', '.join(unsaid)} is" if unsaid else "")
    advice = " and ".join(f"`hf download {repo}`" for repo in repos) or "Put the parts beside it"
    raise UserError(f"{what}: {'; '.join(each for each in words if each)}. Get them: {advice}.")


def _linked(standard: str, parts: Parts, saved: Mapping[str, Any], made: Any) -> Path:
    """The folder of links; the same one for the same parts in the same places."""
    index = {"_class_name": standard, **saved} | {name: kind for name, (kind, _) in parts.items()}
    optional = getattr(diffusers, standard)._optional_components
    index |= {name: [None, None] for name in optional if name not in parts}
    if made is not None:
        index["guider"] = ["diffusers", type(made.guider).__name__]
    text = json.dumps(index, indent=2)
    view = VIEWS / sha256(text + "".join(f"\n{place}" for _, place in parts.values()))[:32]
    if (view / "model_index.json").is_file():
        return view
    VIEWS.mkdir(parents=True, exist_ok=True)
    try:
        with complete(view) as partial:
            partial.mkdir()
            for name, (_, place) in parts.items():
                (partial / name).symlink_to(place)
            if made is not None:
                made.guider.save_pretrained(partial / "guider")
            (partial / "model_index.json").write_text(text, encoding="utf-8")
    except OSError:
        if not (view / "model_index.json").is_file():  # else another process has just made it
            raise
    return view
