"""From the name of a model to a generator that is ready on its device."""

from __future__ import annotations

import inspect
import logging
import math
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_dispatch import attention_backend
from diffusers.utils.torch_utils import get_module_execution_device

from t2v.errors import UserError
from t2v.io.text_files import read_json
from t2v.models.attention.layer import check_backend
from t2v.models.device import DTYPES, check_memory
from t2v.models.folder import read_index
from t2v.models.folder_check import check_folder, loading_folder, pipeline_class
from t2v.models.hold import Hold, check_hold, give_back_freed_memory, hold_part, place
from t2v.models.load import (
    load_parts,
    loading,
    network_classes,
    quiet_bars,
    quiet_warnings,
    refuse_damaged,
)
from t2v.pipelines.generator import Ability, Generator, lacking, require
from t2v.pipelines.t2v_generator import T2VGenerator

logger = logging.getLogger(__name__)

# what `model_index.json` names, and the generator that it is; all others are other packages'
GENERATORS: dict[str, type[Generator] | str] = {
    "T2VPipeline": T2VGenerator,
    "T2VTokenPipeline": "t2v.pipelines.token_generator:TokenGenerator",  # loaded for few models
}
PLAIN = Hold()
Adapt = Callable[[type[DiffusionPipeline], str, torch.nn.Module], None]
Embed = Callable[[Generator], None]
BYTES_PER_PIXEL = 3 * (4 + 1)  # of a decoded video, and of the frames that are written


def generator_class(
    model: str, folder: Path, command: str, needs: Sequence[Ability] = ()
) -> type[Generator]:
    """The generator that a pipeline folder is of.

    Args:
        model: as it was given, for messages.
        command: what is to be done with it, for messages.
        needs: what the command cannot do without.

    Raises:
        UserError: `model_index.json` cannot be read, or the generator lacks something.
    """
    name = str(read_index(folder).get("_class_name"))
    known = GENERATORS.get(name)
    kind: Any = resolve_name(known) if isinstance(known, str) else known
    if kind is None:
        kind = _other_generator(name)
    for ability in needs:
        if not getattr(kind, ability):  # a property depends on the pipeline
            raise lacking(name, ability, f"model={model}", command)
    return kind


def _other_generator(name: str) -> type[Generator]:
    """The generator of another package's pipeline, by the name of its class."""
    from t2v.pipelines.moving_pictures import makes_pictures  # seldom needed

    if makes_pictures(getattr(diffusers, name, DiffusionPipeline)):
        from t2v.families.picture_films import PictureFilms

        return PictureFilms
    from t2v.families.generator import FamilyGenerator

    return FamilyGenerator


def load_generator(
    model: str,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    command: str,
    needs: Sequence[Ability] = (),
    hold: Hold = PLAIN,
    adapt: Adapt | None = None,
    sees: Collection[str] = (),
    single: Path | None = None,
    embed: Embed | None = None,
) -> Generator:
    """The generator in a pipeline folder, ready on its device.

    Args:
        sees: names of what it will be given beside text. Where the folder's own pipeline takes no
            such thing, another of its family that computes with the same weights is loaded.
        hold: how its weights are held there.
        single: a file of weights that take the place of the transformer's.
        adapt: called with the pipeline's class and each network and its name before it is held;
            adapters of networks that wait in pieces cannot be added any more.
        embed: with `offload=text`: has the generator embed all that it will be asked for, before
            transformers are read.

    Raises:
        UserError: see `generator_class` and `load_parts`; a part is damaged.
    """
    quiet_bars()
    quiet_warnings()
    what = f"model={model}"
    with loading(what):
        kind = generator_class(model, folder, command, needs)
    check_folder(what, folder)
    check_hold(hold, device)
    disk = _disk_for(hold, device)
    place_of = None if disk is None else Path(disk.name)
    whole = _class_of(kind, folder, sees)

    def held(name: str, part: torch.nn.Module) -> None:
        if adapt is not None:
            adapt(whole, name, part)
        hold_part(name, part, hold, device, place_of)

    def read(given: dict[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
        if single is not None and "transformer" not in given:
            from t2v.models.single_file import load_single_file  # most models are folders

            given["transformer"] = load_single_file(what, single, folder, dtype)
            held("transformer", given["transformer"])
        with loading_folder(what, folder):
            return given | load_parts(what, folder, dtype, given, held)

    later: dict[str, torch.nn.Module] = {}
    if hold.offload == "text":
        from t2v.pipelines.released import released_after, stand_ins  # few models are held so

        later = stand_ins(what, folder, dtype, device)
    parts = read(dict(later))
    with loading_folder(what, folder), loading(what):
        pipeline = whole.from_pretrained(folder, dtype=dtype, local_files_only=True, **parts)
    for part in pipeline.components.values():  # those that were left to diffusers
        if isinstance(part, torch.nn.Module) and part not in parts.values():
            refuse_damaged(what, part)
    _check_parts(what, pipeline)
    place(pipeline, hold, device)
    if disk is not None:  # the folder goes with the pipeline
        weakref.finalize(pipeline, disk.cleanup)
    generator = kind(pipeline)
    for ability in needs:
        require(generator, ability, what, command)
    if later:
        assert embed is not None, "offload=text needs all prompts"
        with released_after(what, pipeline, device):
            embed(generator)
        whole_parts = read({name: part for name, part in parts.items() if name not in later})
        pipeline.register_modules(**{name: whole_parts[name] for name in later})
        place(pipeline, hold, device)
    return generator


def load_denoisers(
    model: str,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    hold: Hold = PLAIN,
    adapt: Adapt | None = None,
    sees: Collection[str] = (),
    single: Path | None = None,
) -> dict[str, torch.nn.Module]:
    """The transformers of a pipeline folder alone, by name, on a device, as `load_generator` has
    them there.

    Args: as those of `load_generator`.

    Raises:
        UserError: see `load_parts`.
    """
    quiet_bars()
    quiet_warnings()
    what = f"model={model}"
    with loading(what):
        kind = generator_class(model, folder, "t2v sample")
        others = [each for each in network_classes(what, folder) if not is_denoiser(each)]
    check_hold(hold, device)
    whole = _class_of(kind, folder, sees)

    def held(name: str, part: torch.nn.Module) -> None:
        if adapt is not None:
            adapt(whole, name, part)
        hold_part(name, part, hold, device, None)

    parts: dict[str, torch.nn.Module] = {}
    if single is not None:
        from t2v.models.single_file import load_single_file  # most models are folders

        parts["transformer"] = load_single_file(what, single, folder, dtype)
        held("transformer", parts["transformer"])
    parts |= load_parts(what, folder, dtype, {*others, *parts}, held)
    return {name: part.to(device).eval() for name, part in parts.items()}


def is_denoiser(name: str) -> bool:
    """Return whether a part of a pipeline is one of its transformers, which predict each step."""
    return name.startswith("transformer")


def _disk_for(hold: Hold, device: torch.device) -> TemporaryDirectory[str] | None:
    """The folder in which weights wait beside a CPU, where they do."""
    if device.type != "cpu" or hold.offload == "none":
        return None
    give_back_freed_memory()
    is_on_disk = hold.offload in ("group", "leaf")
    return TemporaryDirectory(prefix="t2v-offload-") if is_on_disk else None


def _check_parts(what: str, pipeline: DiffusionPipeline) -> None:
    """Raise `UserError` where a pipeline lacks what makes or decodes its videos."""
    parts = pipeline.components
    for names in (("transformer", "transformer_2"), ("vae",), ("scheduler",)):
        known = [name for name in names if name in parts]
        if known and all(parts[name] is None for name in known):
            raise UserError(
                f"{what}: its model_index.json names no {names[0]}, so it makes no videos. "
                "Download it again, or put the entry back."
            )


def _class_of(
    kind: type[Generator], folder: Path, sees: Collection[str]
) -> type[DiffusionPipeline]:
    """The class that reads a folder: `DiffusionPipeline` would read again those networks that are
    optional in the class it finds (Wan's transformers), instead of taking those that are given."""
    if kind.pipeline_class is not DiffusionPipeline:
        return kind.pipeline_class
    index = read_index(folder)
    name, found = str(index["_class_name"]), pipeline_class(f"model={folder}", folder)
    if sees:
        from t2v.families.table import family_of  # most videos are of a prompt alone

        family = family_of(name)
        others = () if family is None else family.shares(name, index)
        for each in (found, *(getattr(diffusers, other) for other in others)):
            if set(sees) <= inspect.signature(each.__call__).parameters.keys():
                if each is not found:
                    words = (
                        "model=%s is a %s, called as a %s, which has the same weights and takes %s"
                    )
                    logger.info(words, folder, name, each.__name__, " and ".join(sorted(sees)))
                return each
    return found


def set_layout(pipeline: Any, words: Sequence[str]) -> None:
    """Have the tokens of the transformer, or of both, attend by the layouts of those names.

    Raises:
        UserError: the transformer is not ours, or has not the weights of such a layout.
    """
    if not words:
        return
    second = getattr(pipeline, "transformer_2", None)
    for transformer in (pipeline.transformer, *([second] if second is not None else [])):
        if not hasattr(transformer, "set_attention"):
            raise UserError(
                f"attention_layout={','.join(words)}: it is for a T2VTransformer3DModel, and this "
                f"model has a {type(transformer).__name__}. Leave it out."
            )
        transformer.set_attention(words if len(words) > 1 else words[0])


def set_attention(pipeline: DiffusionPipeline, backend: str) -> None:
    """Set the attention backend of the transformer, or of both, by its name in diffusers.

    Raises:
        UserError: there is no such backend here, or it does not fit the transformer.
    """
    if backend == "native":
        return
    second = getattr(pipeline, "transformer_2", None)
    try:
        for transformer in (pipeline.transformer, *([second] if second is not None else [])):
            head_dim = transformer.config.get("attention_head_dim")
            if isinstance(head_dim, int):
                device, dtype = get_module_execution_device(transformer), transformer.dtype
                held = dtype if dtype in DTYPES.values() else torch.bfloat16  # quantized
                check_backend(backend, head_dim, device, held)
            with attention_backend(backend):  # restores what diffusers sets for the whole process
                transformer.set_attention_backend(backend)
    except (AttributeError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"attention={backend}: not usable here. {error}") from error


def compile_blocks(pipeline: DiffusionPipeline, device: torch.device) -> None:
    """Have the blocks of the transformers compiled when they are first called.

    Equal blocks share what is compiled. The sums are in another order than without.

    Raises:
        UserError: what torch compiles with is not here.
    """
    from t2v.models.compiling import check_compiler

    check_compiler(device)
    for name, part in pipeline.components.items():
        if not (is_denoiser(name) and isinstance(part, torch.nn.Module)):
            continue
        if getattr(part, "_repeated_blocks", None):
            part.compile_repeated_blocks()
            continue
        for each in part.children():
            for block in each if isinstance(each, torch.nn.ModuleList) else ():
                block.compile()
    logger.info("compile=true: the first step compiles the blocks, which takes a minute or more")


def check_room(
    folder: Path,
    device: torch.device,
    height: int | None,
    width: int | None,
    num_frames: int | None,
    duration: float | None = None,
    fps: float | None = None,
    upscale: int | None = 1,
) -> None:
    """Refuse a video whose frames alone are larger than the memory, before weights are read.

    What is None is as saved in the folder.
    """
    upscale = saved_scale(folder) if upscale is None else upscale
    saved = read_index(folder)
    asked = {"height": height, "width": width, "num_frames": num_frames}
    sizes: dict[str, Any] = {name: value or saved.get(name) for name, value in asked.items()}
    fps = fps or saved.get("fps")
    if duration is not None and fps:
        sizes["num_frames"] = duration * fps
    larger = {} if upscale == 1 else {"upscale": upscale}
    if all(isinstance(size, int | float) for size in sizes.values()):
        check_memory(
            " ".join(f"{name}={size:.0f}" for name, size in (sizes | larger).items()),
            int(math.prod(sizes.values())) * upscale**2 * BYTES_PER_PIXEL,
            device,
            "Ask for fewer frames or a smaller size; `t2v plan sample` tells what they take.",
        )


def saved_scale(folder: Path) -> int:
    """The scale of a folder's upscaler as its file says; 1 where there is none that can be read."""
    config = folder / "upscaler" / "config.json"
    scale = read_json(config).get("scale") if config.is_file() else 1
    return scale if isinstance(scale, int) else 1
