"""Faults of a pipeline folder: of its index and configs before it is loaded, then of its files.

A loader of another package tells neither the file nor the way out, so where one fails the folder
is looked through for what it cannot have read.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import diffusers
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2v.errors import UserError, shortened
from t2v.models.folder import AGAIN, by_package, check_readable, read_base, read_index, read_object
from t2v.models.load import LIBRARIES, LoadError, check_config, weight_fault

# what the first part of a component's name says of its class
KINDS: dict[str, tuple[type, str]] = {
    "transformer": (nn.Module, "network"),
    "vae": (nn.Module, "network"),
    "text_encoder": (nn.Module, "network"),
    "image_encoder": (nn.Module, "network"),
    "scheduler": (SchedulerMixin, "scheduler"),
}
COUNTS = ("layers", "blocks", "depth")  # settings that say how much is built
MOST = 1_000  # of them: the deepest networks have a hundred


def pipeline_class(what: str, folder: Path) -> type[DiffusionPipeline]:
    """The class of the pipeline in a folder.

    Args:
        what: the setting and its value; begins a message.

    Raises:
        UserError: see `read_index`; or diffusers has no such pipeline.
    """
    name = str(read_index(folder)["_class_name"])
    kind = getattr(diffusers, name, None)
    if inspect.isclass(kind) and issubclass(kind, DiffusionPipeline):
        return kind
    raise UserError(
        f"{what}: model_index.json names {shortened(name)}, which is no pipeline of diffusers "
        f"{diffusers.__version__}. Name another folder, or install the version that has it."
    )


def check_folder(what: str, folder: Path, is_whole: bool = True) -> None:
    """Refuse a pipeline folder that no loader can make sense of; no weight is read.

    Args:
        what: the setting and its value; begins a message.
        is_whole: it should hold more than configs of networks.

    Raises:
        UserError: names the file, what it holds and what it should.
    """
    kind, index = pipeline_class(what, folder), read_index(folder)
    settings = {name: value for name, value in index.items() if isinstance(value, str)}
    if wrong := _wrong_settings(kind, settings):
        raise UserError(f"{what}: model_index.json: {wrong[0]}. {AGAIN}")
    is_learned = read_base(folder) is not None  # whose networks are those of another
    for name, is_needed in _components(kind).items():
        if name not in index and is_needed and (is_whole or name in ("transformer", "vae")):
            raise UserError(
                f"{what}: its model_index.json names no {name}, which a {kind.__name__} needs. "
                f"{AGAIN}"
            )
        if (entry := index.get(name)) is None:
            continue
        part = _named_class(what, name, by_package(entry))
        if part is None or (is_learned and issubclass(part, nn.Module)):
            continue
        if is_whole or issubclass(part, ModelMixin | PreTrainedModel | SchedulerMixin):
            _check_part(what, folder / name, part, kind)


def _components(pipeline: Any) -> dict[str, bool]:
    """The parts that a pipeline is made of, not its settings; True: it cannot do without."""
    taken = inspect.signature(pipeline.__init__).parameters
    optional = pipeline._optional_components
    return {
        name: name not in optional
        for name, each in taken.items()
        if name != "self" and (each.default is each.empty or name in optional)
    }


def _named_class(what: str, name: str, entry: Any) -> Any:
    """The class that an entry of the index names; None where it leaves the part out."""
    where = f"{what}: model_index.json: {name} is {shortened(json.dumps(entry))}"
    match entry:
        case [None, None]:
            return None
        case [str(library), str(kind)]:
            pass
        case _:
            raise UserError(
                f'{where}; it should be a library and a class, such as ["diffusers", '
                f'"AutoencoderKLWan"]. {AGAIN}'
            )
    room = _library(library)
    if room is None:
        raise UserError(
            f"{where}, and parts come from {', '.join(LIBRARIES)} alone. Name another folder."
        )
    try:
        found = getattr(room, kind, None)
    except (ImportError, RuntimeError) as error:  # of a class whose own imports fail
        raise UserError(f"{where}, which cannot be imported here ({error}).") from error
    if not inspect.isclass(found):
        raise UserError(
            f"{where}, and the {library} that is installed has no such class. Name another folder, "
            f"or install the version of {library.partition('.')[0]} that has it."
        )
    base, word = next((each for key, each in KINDS.items() if name.startswith(key)), (object, ""))
    if not issubclass(found, base):
        raise UserError(f"{where}, which is no {word}. {AGAIN}")
    return found


def _library(name: str) -> ModuleType | None:
    """The module that an index names, where parts may come from it."""
    if name.partition(".")[0] in LIBRARIES:
        try:
            return import_module(name)
        except ImportError:
            return None
    return getattr(diffusers.pipelines, name, None) or sys.modules.get(name)


def _check_part(what: str, folder: Path, kind: Any, pipeline: Any) -> None:
    """Refuse a part that is not there, or whose settings are none."""
    check_readable(folder, what)
    if not folder.is_dir():
        raise UserError(f"{what}: has no {folder.name}/, which model_index.json names. {AGAIN}")
    if issubclass(kind, SchedulerMixin):
        _check_scheduler(what, folder, kind, pipeline)
    elif issubclass(kind, ModelMixin | PreTrainedModel):
        config = read_object(folder / "config.json", what)
        check_config(what, kind, folder)
        _check_numbers(f"{what}: {folder.name}/config.json", config)
    elif issubclass(kind, PreTrainedTokenizerBase):
        read_object(folder / "tokenizer_config.json", what)


def _check_numbers(where: str, config: Mapping[str, Any]) -> None:
    for name, value in config.items():
        if any(each in name for each in COUNTS) and isinstance(value, int) and value > MOST:
            raise UserError(
                f"{where}: {name} is {value:,}, and at most {MOST:,} are built. {AGAIN}"
            )
    channels: Any = config.get("z_dim") or config.get("latent_channels")
    for name in ("latents_mean", "latents_std"):
        values = config.get(name)
        is_fit = values is None or not isinstance(channels, int)
        if not is_fit and not (isinstance(values, list) and values and not len(values) % channels):
            raise UserError(
                f"{where}: {name} should be a number for each of the {channels} channels. {AGAIN}"
            )


def _check_scheduler(what: str, folder: Path, kind: Any, pipeline: Any) -> None:
    """Refuse a scheduler that a pipeline cannot use, or settings that are another one's."""
    config = read_object(folder / "scheduler_config.json", what)
    where = f"{what}: scheduler/scheduler_config.json"
    saved = config.get("_class_name")
    if saved not in (None, kind.__name__, *kind._compatibles):
        named = f"model_index.json names a {kind.__name__}"
        raise UserError(f"{where} is of a {saved}, and {named}. {AGAIN}")
    annotation = inspect.signature(pipeline.__init__).parameters["scheduler"].annotation
    meant = [each for each in (*get_args(annotation), annotation) if inspect.isclass(each)]
    flows = config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas")
    fits = {
        "FlowMatch": flows or kind.__name__.startswith("FlowMatch"),
        "CogVideoX": hasattr(kind, "scale_model_input"),
    }
    if meant and not fits.get(meant[0].__name__[:9], True):
        raise UserError(
            f"{where} is of a {saved or kind.__name__} without the settings of "
            f"a {meant[0].__name__}, which a {pipeline.__name__} samples with. {AGAIN}"
        )


@contextmanager
def loading_folder(what: str, folder: Path) -> Iterator[None]:
    """Name the file of a pipeline folder over which a loader fails.

    Raises:
        UserError: the block raises a `LoadError`.
    """
    try:
        yield
    except LoadError as error:
        refuse_damaged_files(what, folder, error)
        raise


def refuse_damaged_files(what: str, folder: Path, cause: Exception | None = None) -> None:
    """Raise `UserError` for the first file of a pipeline folder that its part cannot be made of.

    Of weights it looks at the heads of their files; networks are built without them.
    """
    kind, index = pipeline_class(what, folder), read_index(folder)
    is_learned = read_base(folder) is not None
    for name in _components(kind):
        place, entry = folder / name, by_package(index.get(name))
        part = None if entry is None else _named_class(what, name, entry)
        if part is None or not place.is_dir():
            continue
        fault = _building_fault(what, place, part)
        if issubclass(part, ModelMixin | PreTrainedModel) and not is_learned:
            fault = fault or weight_fault(what, place)
        if fault:
            raise UserError(f"{what}: {fault} {AGAIN}") from cause


def _building_fault(what: str, folder: Path, kind: Any) -> str | None:
    """The reason that a part cannot be made of its files, but for weights; None where it can."""
    is_scheduler, config = issubclass(kind, SchedulerMixin), {}
    file = "scheduler_config.json" if is_scheduler else "config.json"
    try:
        if issubclass(kind, ModelMixin | PreTrainedModel | SchedulerMixin):
            config = read_object(folder / file, what)
            with torch.device("cpu" if is_scheduler else "meta"):
                if issubclass(kind, PreTrainedModel):
                    kind(kind.config_class.from_dict(config))
                else:
                    kind.from_config(config)
        else:
            file = ""
            kind.from_pretrained(folder, local_files_only=True)
    except UserError:
        raise
    except Exception as error:  # whatever reading and arithmetic with such settings raise
        reason = shortened(" ".join(str(error).split()), 300)
        wrong = "; ".join(_wrong_settings(kind, config)[:3]) or reason
        return f"{folder.name}/{file}: no {kind.__name__} can be made of it ({wrong})."
    return None


def _wrong_settings(kind: Any, config: Mapping[str, Any]) -> list[str]:
    """Settings that are text, or none, where the network takes something else."""
    taken = inspect.signature(kind.__init__).parameters
    found = []
    for name, value in config.items():
        if name not in taken:
            continue
        wanted, usual = str(taken[name].annotation), taken[name].default
        is_text = isinstance(value, str) and "str" not in wanted and not isinstance(usual, str)
        is_none = value is None and "None" not in wanted and "Optional" not in wanted
        is_none = is_none and usual is not None
        if is_text or is_none:
            found.append(f"{name} is {shortened(json.dumps(value))} and should be {_words(wanted)}")
    return found


def _words(annotation: str) -> str:
    return annotation.removeprefix("<class '").removesuffix("'>")
