"""The first weights of a run: those of a saved pipeline, VAE or checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from safetensors import safe_open
from torch import Tensor, nn

from t2v.config.training import TrainConfig
from t2v.errors import UserError
from t2v.io.checkpoint import MANIFEST, newest_checkpoint, verify_checkpoint
from t2v.io.files import REFERENCE
from t2v.io.tensor_files import TensorFile
from t2v.models.attention.change import adopt_projections
from t2v.models.attention.layouts import ADDED
from t2v.models.code_head import NAME as CODE_HEAD
from t2v.models.load import load_network, loading
from t2v.models.token_learner import NAME as TOKEN_LEARNER
from t2v.models.transformer import ADDED_AT_ZERO, T2VTransformer3DModel
from t2v.training.engine.task import Task

LAST_LAYER = "transformer.proj_out."
QUANTIZER = "quantize"  # of a VAE, which is set to the latents of one without


def check_start(config: TrainConfig, parts: Mapping[str, nn.Module | None]) -> None:
    """Refuse first weights that a new run cannot take, before its data is read or made.

    Args:
        parts: those that learn, by name; their weights are compared by name and shape with what
            `start_from` and `average_with` hold. None: that there is such a part is all.

    Raises:
        UserError: see `start_from`.
    """
    if newest_checkpoint(config.output):  # which goes on with its own
        return
    for option in ("start_from", "average_with"):
        if (given := getattr(config, option)) is None:
            continue
        own: dict[str, Tensor] = {}
        saved: dict[str, Tensor] = {}
        for part, module in parts.items():
            place = starting_part(Path(given), part, option)
            if isinstance(module, ModelMixin):
                kind: Any = type(module)
                with loading(f"{option}={given}"), torch.device("meta"):
                    made = kind.from_config(kind.load_config(place, local_files_only=True))
                own |= {f"{part}.{name}": value for name, value in module.named_parameters()}
                saved |= {f"{part}.{name}": value for name, value in made.named_parameters()}
        _added(own, saved, f"{option}={given}")


@torch.no_grad()
def start_from(folder: Path, task: Task, share: float = 1.0, option: str = "start_from") -> None:
    """Give the task's model the weights saved in `folder`; of a training run, its average.

    Below 1, `share` is theirs in a mean with the weights that the model has; that of two runs with
    one beginning is often better than either (arXiv 2203.05482).

    `folder` is a pipeline folder, a folder of the one part that is trained, a checkpoint, or the
    output of a run, which stands for its newest checkpoint.

    Raises:
        UserError: there is no such part, a file is damaged, or the weights are of another model.
    """
    own: dict[str, nn.Parameter] = {}
    given: dict[str, nn.Parameter] = {}
    for part, module in task.parts.items():
        place = starting_part(folder, part, option)
        saved = _load(place, type(module), option)
        own |= {f"{part}.{name}": value for name, value in module.named_parameters()}
        given |= {f"{part}.{name}": value for name, value in saved.named_parameters()}
    added = _added(own, given, f"{option}={folder}")
    for name in own.keys() - added:
        own[name].lerp_(given[name].to(own[name]), share)
    for module in task.parts.values():
        if isinstance(module, T2VTransformer3DModel):
            adopt_projections(module, {name.split(".", 1)[1] for name in added})


def _added(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> set[str]:
    """The names of the weights that a model has beside those that are given, or that begin anew:
    the last layer of a model of codes, where that of one of latents is given.

    Raises:
        UserError: the others are not the same; begins with `what`.
    """
    fitting = [name for name in own if name in given and given[name].shape == own[name].shape]
    added = {name for name in own if name not in given and _may_be_added(name)}
    becomes_codes = any(f".{CODE_HEAD}." in name for name in added)
    renewed = {n for n in own if becomes_codes and n.startswith(LAST_LAYER) and n not in fitting}
    added |= renewed
    if not len(fitting) == len(own) - len(added) == len(given) - len(renewed):
        raise UserError(
            f"{what} is another model: of {len(given)} weights {len(fitting)} fit the {len(own)} "
            "of this one. Give the model settings it was trained with."
        )
    return added


def _may_be_added(name: str) -> bool:
    """Return whether a model may lack this weight: it adds nothing at first, or its part does, or
    it is made of the others."""
    may_lack = {*ADDED, TOKEN_LEARNER, QUANTIZER, CODE_HEAD}
    return name.endswith(ADDED_AT_ZERO) or bool({*name.split(".")} & may_lack)


@torch.no_grad()
def resume_from(checkpoint: Path, task: Task) -> None:
    """Give the task's model the weights of a checkpoint of its own run, to the bit.

    Those that learn lie in `training/`, as they were after the last step; the frozen ones in the
    folders of the parts. What a LoRA hides is saved nowhere, and beside a reference to the base
    model nothing frozen is: the task has read that model, and its hash is among `task.sources`.
    """
    saved = TensorFile(checkpoint / "training" / "weights.safetensors")
    places = {
        id(parameter): (checkpoint / part, name)
        for part, module in task.parts.items()
        for name, parameter in module.named_parameters()
    }
    for name, parameter in task.model.named_parameters():
        if parameter.is_meta:
            continue  # another rank reads it
        is_plain = type(parameter) is nn.Parameter  # what is quantized cannot be written to
        if name in saved:
            parameter.copy_(saved[name])
        elif is_plain and ".base_layer." not in name and not (checkpoint / REFERENCE).is_file():
            parameter.copy_(_read(*places[id(parameter)]))


def _read(folder: Path, name: str) -> Tensor:
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            if name in file.keys():  # noqa: SIM118
                return file.get_tensor(name)
    raise UserError(
        f"{folder} holds no {name}. Where an adapter learns, {folder.parent / REFERENCE} is "
        f"missing: put it back, or remove {folder.parent} to go on from the checkpoint before it."
    )


def starting_part(folder: Path, part: str, option: str = "start_from") -> Path:
    """Return the folder of `part`, such as "transformer", under `folder`; a checkpoint is verified.

    Raises:
        UserError: nowhere, or a file of the checkpoint is not the one that was saved.
    """
    place = newest_checkpoint(folder) or folder
    if (place / MANIFEST).is_file():
        verify_checkpoint(place)
    for found in (place / part, place):
        if (found / "config.json").is_file():
            return found
    raise UserError(
        f"{option}={folder} holds no {part}/. Give a pipeline folder, a checkpoint or the "
        "output of a training, or omit it."
    )


def _load(folder: Path, kind: Any, option: str) -> nn.Module:
    return load_network(f"{option}={folder}", kind, folder.parent, folder.name)
