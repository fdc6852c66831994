"""The `t2v push` command: a pipeline folder that loads goes to the Hub, with a card and videos."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import ModelMixin
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HTTPError  # httpx's, under whichever name the Hub has it

from t2v.config.push import PushConfig
from t2v.errors import UserError, shortened
from t2v.io.files import EMBEDDED_MODELS, LEARNED, REFERENCE
from t2v.io.model_card import MODEL_CARD, card_of_folder
from t2v.io.video import read_recipe, shape_of
from t2v.models.folder import read_base, read_index
from t2v.models.load import load_network, network_classes

logger = logging.getLogger(__name__)

# names of files that hold keys, whose place is not beside weights
SECRET = re.compile(r"\.env.*|\.netrc|.*\.pem|.*\.key|id_(rsa|ed25519).*|credentials.*|\.?token")
TOP = ("model_index.json", MODEL_CARD, "LICENSE", REFERENCE, *LEARNED)


def push(config: PushConfig) -> str:
    """Put a pipeline folder on the Hub, in one commit; returns its address there.

    What belongs to the pipeline goes, and the state of a training stays. A folder without a card
    gets one on the Hub; on the disk nothing changes.

    Raises:
        UserError: the folder does not load, has NaN or a file of keys, a video does not play, there
            is no token, or the Hub refuses.
    """
    folder, what = Path(config.folder), f"folder={config.folder}"
    files = files_of(folder)
    for video in config.videos:
        shape_of(Path(video))
    check_loads(what, folder)
    if not get_token():
        raise UserError(
            f"repo={config.repo}: there is no token for the Hub. Log in with `hf auth login`, or "
            "set HF_TOKEN."
        )
    count, size = len(files), sum(path.stat().st_size for path in files)
    logger.info(
        "%s: loads whole; %d files, %.1f MB, go to %s", folder, count, size / 1e6, config.repo
    )
    api = HfApi()
    adds = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    names = {f"samples/{n}{Path(each).suffix}": Path(each) for n, each in enumerate(config.videos)}
    adds += [CommitOperationAdd(name, path) for name, path in names.items()]
    if (folder / MODEL_CARD).is_file():
        logger.info("%s: stays the card", folder / MODEL_CARD)
    else:
        shown = [
            (f"{api.endpoint}/{config.repo}/resolve/main/{name}", _prompt(path))
            for name, path in names.items()
        ]
        kind = str(read_index(folder).get("_class_name"))
        card = card_of_folder(config.repo, kind, shown)
        adds.append(CommitOperationAdd(MODEL_CARD, card.encode()))
    with _hub(config.repo):
        place = api.create_repo(config.repo, private=config.private, exist_ok=True)
        api.create_commit(config.repo, adds, commit_message="Weights and card")
    return str(place)


def files_of(folder: Path) -> list[Path]:
    """The files of a pipeline folder that belong to it; what stays is logged.

    Raises:
        UserError: it is no pipeline folder, a part is missing, or a file of keys lies in it.
    """
    if not (folder / "model_index.json").is_file():
        raise UserError(f"folder={folder}: has no model_index.json. Name a pipeline folder.")
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    secret = [path.relative_to(folder).as_posix() for path in every if SECRET.fullmatch(path.name)]
    if secret:
        raise UserError(
            f"folder={folder}: {', '.join(secret[:3])} may hold keys. Move it out of the folder."
        )
    base = read_base(folder)
    if base is not None and base.model not in EMBEDDED_MODELS and (folder / base.model).exists():
        raise UserError(
            f"folder={folder}: was trained on {base.model}, a folder here, and holds what was "
            "learned alone. Train with save=full, or push its base and name that in "
            f"{REFERENCE}."
        )
    parts = [name for name, entry in read_index(folder).items() if _is_part(entry)]
    missing = [name for name in parts if base is None and not (folder / name).is_dir()]
    if missing:
        raise UserError(f"folder={folder}: {', '.join(missing)} of its parts are missing.")
    own = {*TOP, *parts}
    kept = [
        path
        for path in every
        if {path.relative_to(folder).parts[0], path.relative_to(folder).as_posix()} & own
    ]
    if left := sorted({path.relative_to(folder).parts[0] for path in every} - own):
        logger.info("left out: %s", shortened(", ".join(left)))
    return kept


def _is_part(entry: object) -> bool:
    """True of library and class; other lists are settings, such as the sizes it was trained at."""
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(x, str) for x in entry)


def check_loads(what: str, folder: Path) -> None:
    """Raise `UserError` unless each network of a folder loads whole and finite, one at a time."""
    for name, kind in network_classes(what, folder).items():
        option = "torch_dtype" if issubclass(kind, ModelMixin) else "dtype"
        load_network(what, kind, folder, name, **{option: torch.bfloat16})


def _prompt(video: Path) -> str:
    try:
        return str(read_recipe(video).get("prompt", ""))
    except UserError:  # of another tool: shown without words
        return ""


@contextmanager
def _hub(repo: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, HTTPError, RuntimeError) as error:
        # an upload that fails is a RuntimeError, which names the file; its cause names the reason
        reason = error if error.__cause__ is None else f"{error} {error.__cause__}"
        raise UserError(
            f"repo={repo}: the Hub cannot be reached or refuses: {shortened(reason, 500)} Check "
            "the network, the name, and that the token may write there. What was sent whole is "
            "not sent again."
        ) from error
