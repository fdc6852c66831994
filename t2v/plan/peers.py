"""Pipelines of other packages as their config files describe them, without a weight."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from torch import nn
from transformers import PreTrainedModel

from t2v.errors import UserError
from t2v.families.generator import FamilyGenerator
from t2v.families.record import channels, spatial, temporal
from t2v.io.text_files import read_json
from t2v.models.folder import read_index
from t2v.models.folder_check import check_folder, loading_folder, pipeline_class
from t2v.models.load import loading
from t2v.models.wan_vae import AutoencoderKLWan
from t2v.pipelines.generator import Request
from t2v.plan.parts import Part, part_of

LIBRARIES = {"diffusers": diffusers, "transformers": transformers}


@cache  # the size of a step is asked for before its cost
def described(folder: Path) -> DiffusionPipeline:
    """The pipeline of a folder on the meta device, from its config files alone.

    Tokenizers and other parts without weights are left out.

    Raises:
        UserError: diffusers has no such pipeline, or a config file is missing or cannot be read.
    """
    index, what = read_index(folder), f"model={folder}"
    kind = pipeline_class(what, folder)
    check_folder(what, folder, is_whole=False)
    taken = inspect.signature(kind.__init__).parameters
    with loading_folder(what, folder), loading(what):
        parts = {each: _part(folder / each, index[each]) for each in taken if each in index}
        missing = {each: None for each, at in taken.items() if at.default is at.empty}
        missing.pop("self")
        pipeline = kind(**{**missing, **parts})
    for part in ("transformer", "vae"):
        if not isinstance(getattr(pipeline, part, None), nn.Module):
            raise UserError(
                f"{what}: it has no {part} that diffusers {diffusers.__version__} knows, and "
                "`t2v plan` counts pipelines with both. Name another folder."
            )
    return pipeline


def _part(folder: Path, entry: Any) -> Any:
    """A network on the meta device or a scheduler; None for what has no weights; else a value."""
    match entry:
        case [str(library), str(name)]:
            return _made(folder, getattr(LIBRARIES.get(library), name, None))
        case [*_]:
            return None
    return entry


def _made(folder: Path, kind: Any) -> Any:
    if not inspect.isclass(kind):
        return None
    made: Any = kind
    if issubclass(kind, SchedulerMixin):
        return made.from_config(read_json(folder / "scheduler_config.json"))
    if not issubclass(kind, ModelMixin | PreTrainedModel):
        return None
    saved = read_json(folder / "config.json")
    with torch.device("meta"):
        if issubclass(kind, ModelMixin):
            return AutoencoderKLWan.of(made.from_config(saved))  # others stay what they are
        return made(made.config_class.from_dict(saved))


def networks(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """The networks of a pipeline by name."""
    return {n: each for n, each in pipeline.components.items() if isinstance(each, nn.Module)}


def peer_parts(pipeline: DiffusionPipeline, dtype: torch.dtype) -> tuple[Part, ...]:
    """The networks of a pipeline in bytes, as they are loaded in a number format."""
    return tuple(part_of(name, each, dtype.itemsize) for name, each in networks(pipeline).items())


def usual(pipeline: DiffusionPipeline) -> Request:
    """The video that a pipeline makes when nothing else is asked for."""
    asked = FamilyGenerator(pipeline).defaults
    other = inspect.signature(pipeline.__call__).parameters.get("frames")  # Sana-Video's name
    if asked.num_frames is None and other is not None:
        asked = replace(asked, num_frames=other.default)
    return asked


def rows(pipeline: DiffusionPipeline) -> int:
    """Tokens of text that the call pads a prompt to, or takes at most."""
    asked = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
    if asked is not None and isinstance(asked.default, int):
        return asked.default
    return int(getattr(pipeline, "tokenizer_max_length", 512))


def known_sizes(folder: Path) -> dict[str, Any]:
    """The video that a folder of another package makes, in the words of our `model_index.json`."""
    pipeline = described(folder)
    asked = usual(pipeline)
    sizes = {name: getattr(asked, name) for name in ("height", "width", "num_frames", "fps")}
    return sizes | {"max_sequence_length": rows(pipeline)}


def latents_of(
    pipeline: DiffusionPipeline, frames: int, height: int, width: int
) -> tuple[int, ...]:
    """The shape `1 c t h w` of what the VAE decodes."""
    family = FamilyGenerator(pipeline).family
    if family is not None:
        asked = replace(usual(pipeline), height=height, width=width, num_frames=frames)
        return family.latent_shape(pipeline, asked)
    scale = spatial(pipeline)
    length = -(-(frames - 1) // temporal(pipeline)) + 1
    return 1, channels(pipeline), length, height // scale, width // scale
