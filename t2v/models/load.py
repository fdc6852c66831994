"""Loading saved parts: any fault of a folder becomes one message that names it."""

import inspect
import logging
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from t2v.config.load import load_config
from t2v.config.models import TransformerConfig, UpscalerConfig, VAEConfig
from t2v.config.schema import settings
from t2v.errors import UserError, shortened
from t2v.io.text_files import check_file, read_json
from t2v.models.finite import is_finite
from t2v.models.folder import AGAIN, base_folder, by_package, read_base, read_object

LIBRARIES = ("diffusers", "transformers", "t2v")
NETWORKS = (ModelMixin, PreTrainedModel)
POOLER = re.compile(r"\bpooler\.")
SHOWN = 3  # example names in a message
# how warnings of diffusers and transformers begin that are untrue, or that nobody has to act on
IN_VAIN = (
    "Pipelines loaded with `dtype=torch.float16` cannot run with `cpu`",  # they do
    "Expected types for ",  # parts are of the classes that their folder names
    "Guiders are currently an experimental feature",
    "`enable_parallelism` is an experimental feature",
    "Expected input tensor to have ",  # a time of all tokens is not split with them
    "`timesteps` were passed without `sigmas`",  # by pipelines of its own
    "`CLIPImageProcessor` requires torchvision",  # and goes on with Pillow
    "We strongly recommend passing in an `attention_mask`",  # of captions that have ended
)
WEIGHT_FILE = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model|pytorch_model)(\.(?P<variant>\w+))?"
    r"(?P<shard>-\d+-of-\d+)?(\.(?P<late>\w+))?\.(?P<kind>safetensors|bin)"
)

OURS: dict[str, type] = {  # what a config.json of ours holds
    "T2VTransformer3DModel": TransformerConfig,
    "AutoencoderKLT2V": VAEConfig,
    "VideoUpscaler": UpscalerConfig,
}


class LoadError(UserError):
    """The error of another package's loader, in its own words."""


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn any error of a loader over a damaged, incomplete or foreign folder into a `UserError`.

    Args:
        what: the setting and its value, `model=runs/x`; begins the message.
    """
    try:
        yield
    except Exception as error:  # loaders of other packages raise KeyError, UnpicklingError, ...
        if isinstance(error, UserError) and str(error).startswith(f"{what}: "):
            raise  # a loader within this one has named it
        reason = repr(error) if isinstance(error, LookupError) else str(error) or repr(error)
        raise LoadError(f"{what}: cannot be loaded. {shortened(reason, 1500)}") from error


def load_part(
    what: str, kind: Any, source: str | Path, *, heads: bool = False, **options: Any
) -> Any:
    """Load a network, all of whose weights must come from its files and be finite.

    Args:
        what: the setting and its value; begins a message.
        kind: the class, of diffusers or transformers or one of ours, or an `Auto...` class.
        source: its folder, or what else `from_pretrained` takes.
        heads: accept files that hold more than the network, such as a classifier on top of it, or
            lack the pooler that pretraining leaves out.
        options: for `from_pretrained`; without a `variant`, the only one in the folder is taken.

    Raises:
        UserError: it cannot be loaded, or a tensor is missing, unknown, NaN or infinite.
    """
    check_config(what, kind, Path(source))
    if "variant" not in options and (variant := variant_of(what, Path(source))):
        options["variant"] = variant
    try:
        with loading(what):
            part, info = kind.from_pretrained(source, output_loading_info=True, **options)
    except LoadError as error:
        if Path(source).is_dir() and (fault := weight_fault(what, Path(source))):
            raise UserError(f"{what}: {fault} {AGAIN}") from error
        raise
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    if heads:
        _empty_poolers(part, missing)
        missing, unexpected = {name for name in missing if not POOLER.search(name)}, set()
    missing |= {name for name, tensor in part.state_dict().items() if tensor.is_meta}
    for names, fault in ((missing, "missing"), (unexpected, "not of this model")):
        if names:
            shown = ", ".join(sorted(names)[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            raise UserError(
                f"{what}: {len(names)} weights of its {type(part).__name__} are {fault} "
                f"({shown}). Download it again, with the config.json it was saved with."
            )
    refuse_damaged(what, part)
    return part


@torch.no_grad()
def _empty_poolers(part: nn.Module, missing: set[str]) -> None:
    """Zero the poolers that transformers initialised at random: equal files then hash equally."""
    for name, parameter in part.named_parameters():
        if name in missing and POOLER.search(name):
            parameter.zero_()


def refuse_damaged(what: str, part: nn.Module) -> None:
    """Raise `UserError` where a weight is NaN or infinite; names the first.

    Takes 0.13 s for a billion weights on one core.
    """
    for name, tensor in part.state_dict().items():
        if isinstance(tensor, Tensor) and not is_finite(tensor):
            raise UserError(
                f"{what}: the weight {name} of its {type(part).__name__} holds NaN or infinite "
                "values. The file is damaged, or its training failed: download or train it again."
            )


def variant_of(what: str, folder: Path) -> str | None:
    """The variant, such as "fp16", of the weight files of a folder that has no plain ones.

    Raises:
        UserError: there are several and no plain ones.
    """
    matches = [WEIGHT_FILE.fullmatch(path.name) for path in folder.glob("*.*")]
    variants = {match["variant"] or match["late"] for match in matches if match}
    if len(variants) > 1 and None not in variants:
        raise UserError(
            f"{what}: {folder} holds several variants of its weights ({', '.join(variants)}). "
            "Keep the files of one."
        )
    return None if None in variants or not variants else variants.pop()


def weight_fault(what: str, folder: Path) -> str | None:
    """The fault of the weight files of a network, by their heads and sizes; None: there is none.

    Raises:
        UserError: the list of shards cannot be read, or a file is none.
    """
    for listed in sorted(folder.glob("*.safetensors.index*.json")):
        shards, where = read_object(listed, what).get("weight_map"), f"{folder.name}/{listed.name}"
        if not isinstance(shards, dict):
            return f"{where}: has no weight_map that names the shards."
        for shard in sorted({str(each) for each in shards.values()}):
            if Path(shard).name != shard:
                return f"{where}: names {shortened(shard)}, which is no file of its folder."
            if not (folder / shard).exists():
                return f"{folder.name}/{shard}: is not there, and {listed.name} names it."
    files = [path for path in sorted(folder.iterdir()) if WEIGHT_FILE.fullmatch(path.name)]
    if not files:
        return f"{folder.name}/ holds no weights, such as diffusion_pytorch_model.safetensors."
    for file in files:
        check_file(file, f"{what}: {folder.name}/{file.name}")
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            size = f"{file.stat().st_size:,} bytes"
            return f"{folder.name}/{file.name}: is damaged or not whole, {size} ({error})."
    return None


def check_config(what: str, kind: Any, folder: Path) -> None:
    """Raise `UserError` for a file where a folder belongs, and for a `config.json` of ours with
    values of another type or out of range."""
    if folder.exists() and not folder.is_dir():  # it would be looked up on the Hub
        raise UserError(f"{what}: not a folder. Name the folder of a model, or its Hub id.")
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    schema = OURS.get(str(config.get("_class_name"))) if isinstance(config, dict) else None
    if schema is None:
        return
    taken = inspect.signature(kind).parameters  # what is not saved is as the network has it
    unsaved = {name: each.default for name, each in taken.items() if each.default is not each.empty}
    known = settings(schema)
    unsaved = {name: list(v) if isinstance(v, tuple) else v for name, v in unsaved.items()}
    stored = {name: each for name, each in (unsaved | config).items() if name in known}
    try:
        load_config(schema, None, (), stored)
    except UserError as error:
        raise UserError(f"{what}: {path.parent.name}/{path.name}: {error}") from error
    for name in ("latents_mean", "latents_std"):
        values = config.get(name) or [0.0]
        plain = isinstance(values, list) and all(isinstance(each, int | float) for each in values)
        if not plain or not all(abs(each) < 1e9 for each in values):
            raise UserError(
                f"{what}: {path.parent.name}/{path.name}: {name} should be a list of numbers."
            )


def load_network(what: str, kind: Any, folder: Path, part: str, **options: Any) -> Any:
    """Load a part of a pipeline folder; one that holds no weights of it names a base model, into
    whose part goes what was learned.

    Args:
        what, kind, options: as `load_part` takes them.

    Raises:
        UserError: see `load_part` and `base_folder`.
    """
    base = read_base(folder)
    if base is None or any((folder / part).glob("*.safetensors")):
        return load_part(what, kind, folder / part, **options)
    with loading(what):
        below = base_folder(folder, base)
    network = load_network(what, kind, below, part, **options)
    from t2v.models.learned import add_learned, learned_file  # few folders refer to another

    try:
        with loading(f"{what}: {learned_file(folder, part)}"):
            add_learned(network, folder, part, base.share)
    except LoadError as error:
        reason = str(error).rstrip(". ")
        raise LoadError(f"{reason}. Copy the checkpoint again, or take another.") from error
    return network


def load_parts(
    what: str,
    folder: Path,
    dtype: torch.dtype,
    given: Collection[str] = (),
    hold: Callable[[str, nn.Module], None] | None = None,
) -> dict[str, nn.Module]:
    """Load the networks of a pipeline folder, by name, for `DiffusionPipeline.from_pretrained`.

    Networks of other libraries than diffusers, transformers and this one are left to it.

    Args:
        given: names of parts that are there already.
        hold: called with the name of each network and itself, before the next one is read.

    Raises:
        UserError: see `load_network`.
    """
    loaded = {}
    for name, kind in network_classes(what, folder).items():
        if name not in given and (folder / name).is_dir():
            options: dict[str, Any] = {
                "torch_dtype" if issubclass(kind, ModelMixin) else "dtype": dtype
            }
            loaded[name] = load_network(what, kind, folder, name, **options)
            if hold is not None:
                hold(name, loaded[name])
    return loaded


def network_classes(what: str, folder: Path) -> dict[str, Any]:
    """The classes of the networks that a pipeline folder names, by part."""
    with loading(what):
        index = read_json(folder / "model_index.json")
        kinds = {name: _class_of(entry) for name, entry in index.items()}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _class_of(entry: Any) -> Any:
    """The network class that an entry of `model_index.json` names; None for anything else."""
    match by_package(entry):
        case ["diffusers", "AutoencoderKLWan"]:
            from t2v.models.wan_vae import AutoencoderKLWan  # most models have another

            return AutoencoderKLWan
        case [str(library), str(name)] if library.partition(".")[0] in LIBRARIES:
            kind = getattr(import_module(library), name, None)
            return kind if inspect.isclass(kind) and issubclass(kind, NETWORKS) else None
    return None


def quiet_bars() -> None:
    """Disable the loaders' own progress bars where there is no terminal, but a log."""
    if not sys.stderr.isatty():
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()


def quiet_warnings() -> None:
    """Keep from the log what diffusers and transformers warn of in vain, see `IN_VAIN`."""
    for library in ("diffusers", "transformers"):
        for handler in logging.getLogger(library).handlers:
            handler.addFilter(_is_of_use)


def _is_of_use(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(IN_VAIN)


def load_text(
    folder: str | Path, option: str = "text"
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load the tokenizer and text encoder of a folder with both, in the classes they were saved as.

    Args:
        option: the setting that names the folder; begins messages.

    Raises:
        UserError: `tokenizer/` or `text_encoder/` is missing, damaged or incomplete.
    """
    for part in ("tokenizer", "text_encoder"):
        if not (Path(folder) / part).is_dir():
            raise UserError(
                f"{option}={folder} has no {part}/. Make it: t2v world text output={folder}"
            )
    know_text_encoder(Path(folder) / "text_encoder")
    with loading(f"{option}={folder}"):
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "tokenizer")
    kind = AutoModelForTextEncoding
    return tokenizer, load_network(f"{option}={folder}", kind, Path(folder), "text_encoder")


def know_text_encoder(folder: Path) -> None:
    """Have transformers' `Auto...` classes know those of ours, where a folder's encoder is one."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if str(config.get("model_type", "")).startswith("t2v_"):
        import_module("t2v.models.text_networks")  # few encoders are, so it is not always loaded
