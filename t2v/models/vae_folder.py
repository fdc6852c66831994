"""The VAE of a folder: of a pipeline, a checkpoint, or an output of `t2v train-vae`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from t2v.errors import UserError
from t2v.io.checkpoint import newest_checkpoint
from t2v.io.text_files import read_json
from t2v.models.load import load_network, loading
from t2v.models.vae import AutoencoderKLT2V
from t2v.models.wan_vae import AutoencoderKLWan

VAES = {each.__name__: each for each in (AutoencoderKLT2V, AutoencoderKLWan)}


def find_vae(folder: Path) -> Path | None:
    """Return the VAE's own folder: this one, its `vae/`, or that of its newest checkpoint."""
    newest = newest_checkpoint(folder)
    places = [folder, folder / "vae", *([newest / "vae"] if newest else [])]
    return next((place for place in places if (place / "config.json").is_file()), None)


def load_vae(folder: str | Path) -> AutoencoderKLT2V | AutoencoderKLWan:
    """Load the frozen VAE of a VAE folder, a checkpoint with `vae/`, or a `t2v train-vae` output.

    Raises:
        UserError: there is none, it is damaged, or of a class that training does not support.
    """
    place = find_vae(Path(folder))
    if place is None:
        raise UserError(
            f"vae={folder} holds no VAE. Give a VAE folder, or the output of `t2v train-vae`."
        )
    with loading(f"vae={place}"):
        name = read_json(place / "config.json").get("_class_name")
        if name not in VAES:
            raise UserError(f"It is a {name}; supported are {', '.join(VAES)}.")
    vae = load_network(f"vae={place}", VAES[name], place.parent, place.name)
    return cast(AutoencoderKLT2V | AutoencoderKLWan, vae.requires_grad_(False))
