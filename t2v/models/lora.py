"""LoRA files in a pipeline: loaded completely or refused, and their effect measured."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffusers import DiffusionPipeline, ModelMixin
from diffusers.loaders import PeftAdapterMixin, WanLoraLoaderMixin
from torch import Tensor

from t2v.errors import UserError
from t2v.models.load import loading

if TYPE_CHECKING:  # every pipeline loads this module, and few videos have a LoRA
    from t2v.models.lora_contents import LoRAFit
    from t2v.models.lora_effect import Call
    from t2v.models.lora_names import Convert

logger = logging.getLogger(__name__)

ADAPTER = "lora"
LoRAPart = Literal["transformer", "transformer_2"]  # which one a LoRA is for
PARTS: tuple[LoRAPart, LoRAPart] = ("transformer", "transformer_2")  # of high noise, and of low


class LoraLoader(WanLoraLoaderMixin):
    """The part of a pipeline that reads LoRA files, diffusers' and those made for Wan."""

    transformer: ModelMixin

    @classmethod
    def lora_state_dict(
        cls, pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor], **kwargs: Any
    ) -> Any:
        """The tensors of a plain LoRA under our names, `transformer.LAYER.lora_A.weight` and so on.

        With `return_lora_metadata` also the rank and alpha stored in the file.

        Raises:
            UserError: it cannot be read, or see `convert`.
        """
        from t2v.models.lora_file import read_lora
        from t2v.models.lora_names import convert

        with_metadata = kwargs.pop("return_lora_metadata", False)
        tensors, metadata = read_lora(pretrained_model_name_or_path_or_dict, **kwargs)
        tensors = convert(tensors, cls.renamed_by_diffusers)
        return (tensors, metadata) if with_metadata else tensors

    @classmethod
    def renamed_by_diffusers(cls, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a LoRA made for Wan, under diffusers' names, by diffusers alone."""
        return super().lora_state_dict(tensors)

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA as every diffusers pipeline does, but refuse a file with tensors of no layer.

        LoKr, LoHa, DoRA and changes of weights and biases load too. With `lora_fit="partial"`, and
        of tensors given as a dict, those that fit are taken, with a warning. With
        `load_into_transformer_2=True` it is for the second of two transformers (Wan 2.2 A14B).

        Raises:
            UserError: peft or the second transformer is missing, or it does not fit.
        """
        from t2v.models.lora_file import require_peft

        require_peft()
        given = pretrained_model_name_or_path_or_dict
        fit = kwargs.pop("lora_fit", "partial" if isinstance(given, dict) else "strict")
        part: LoRAPart = (
            "transformer_2" if kwargs.pop("load_into_transformer_2", 0) else "transformer"
        )
        transformer = transformer_of(self, part, f"load_into_transformer_2={part[-1] == '2'}")
        adapters = getattr(transformer, "peft_config", {})
        name = adapter_name or f"default_{len(adapters)}"
        if hotswap:
            super().load_lora_weights(given, name, hotswap, **kwargs)
            return
        if name in adapters:
            raise UserError(
                f"adapter_name={name}: there is such an adapter. Give another name, or take that "
                "one off with `delete_adapters`."
            )
        kind: Any = type(self)
        put_into(kind, transformer, given, part, name, fit, self, **kwargs)


def transformer_of(pipeline: DiffusionPipeline, part: LoRAPart, what: str) -> ModelMixin:
    """The transformer that a LoRA is for.

    Args:
        what: the setting and its value; begins the message.

    Raises:
        UserError: the pipeline does not have it.
    """
    transformer = getattr(pipeline, part, None)
    if transformer is None:
        kind = type(pipeline).__name__
        if part == PARTS[0]:
            raise UserError(
                f"{what}: this {kind} has no transformer, and a LoRA goes into one. Leave it out, "
                "or merge it into the model with the tool that made it."
            )
        raise UserError(
            f"{what}: this {kind} has one transformer. Leave it out, or use a model with two (Wan "
            "2.2 A14B)."
        )
    return transformer


def load_loras(
    pipeline: DiffusionPipeline,
    sources: Sequence[str | Path],
    scales: Sequence[float] = (1.0,),
    parts: Sequence[LoRAPart] = (),
    fit: LoRAFit = "strict",
) -> list[float | None]:
    """Put LoRAs into `pipeline`, all of which act together; returns the effect of each alone.

    Args:
        sources: the files, or folders with `pytorch_lora_weights.safetensors`.
        scales: of each, or one for all. 0 leaves every bit as it was, 1 is the strength it was
            trained at.
        parts: the transformer that each is for, or one for all; none: the first.
        fit: "strict" refuses a file with a tensor that does not fit; "partial" tells what it
            leaves out.

    Raises:
        UserError: see `insert_loras` and `act`.
    """
    spread("lora_scale", scales, len(sources))
    for source, files in zip(sources, lora_files(sources, parts), strict=True):
        for part in files:
            transformer_of(pipeline, part, _what(source, part, parts))
    for part in PARTS:
        transformer = getattr(pipeline, part, None)
        if transformer is not None:
            insert_loras(type(pipeline), part, transformer, sources, parts, fit, pipeline)
    return act(pipeline, sources, scales, parts)


def insert_loras(
    kind: type[DiffusionPipeline],
    name: str,
    transformer: Any,
    sources: Sequence[str | Path],
    parts: Sequence[LoRAPart] = (),
    fit: LoRAFit = "strict",
    pipeline: DiffusionPipeline | None = None,
) -> None:
    """Put those LoRAs into a network that are for it; `act` lets them act.

    Args:
        kind, name: the pipeline's class, and the network's name in it; other networks than
            transformers get none.
        pipeline: where the network is in one already.
        sources, parts, fit: see `load_loras`.

    Raises:
        UserError: no such file, a transformer that takes none, one that does not fit.
    """
    from t2v.models.lora_file import require_peft

    require_peft()
    for number, files in enumerate(lora_files(sources, parts)):
        part = next((part for part in files if part == name), None)
        if part is None:
            continue
        source, path = sources[number], files[part]
        if not isinstance(transformer, PeftAdapterMixin):
            raise UserError(
                f"lora={source}: the {type(transformer).__name__} of a {kind.__name__} takes no "
                "adapters in diffusers. Leave it out, or merge it with the tool that made it."
            )
        # without this diffusers reads a file it cannot read a second time, as a pickle
        safe = {"use_safetensors": True} if path.suffix == ".safetensors" else {}
        with loading(f"lora={source}"):
            put_into(kind, transformer, path, part, adapter_of(number), fit, pipeline, **safe)


def act(
    pipeline: DiffusionPipeline,
    sources: Sequence[str | Path],
    scales: Sequence[float] = (1.0,),
    parts: Sequence[LoRAPart] = (),
) -> list[float | None]:
    """Let the LoRAs of `insert_loras` act at their scales; returns the effect of each alone, see
    `lora_effect`, or None where that cannot be measured.

    Raises:
        UserError: another number of scales or parts, no second transformer, or one that changes
            nothing or gives NaN.
    """
    from t2v.models.lora_adapters import activate
    from t2v.models.lora_effect import recorded_call

    each_scale, each_files = spread("lora_scale", scales, len(sources)), lora_files(sources, parts)
    transformers: dict[LoRAPart, ModelMixin] = {
        part: transformer_of(pipeline, part, _what(source, part, parts))
        for source, files in zip(sources, each_files, strict=True)
        for part in files
    }
    call, effects, is_known = None, list[float | None](), True
    try:
        call = recorded_call(pipeline) if any(each_scale) else None
    except RuntimeError as error:
        logger.warning("lora: no effect can be measured (%s)", error)
        is_known = False
    for number, (source, scale) in enumerate(zip(sources, each_scale, strict=True)):
        if not parts and len(each_files[number]) == 1 and hasattr(pipeline, "transformer_2"):
            _tell_where(pipeline, source)
        measured: list[float | None] = []
        for part in each_files[number]:
            activate(transformers[part], {adapter_of(number): scale})
            if scale and is_known:
                measured.append(_told_effect(transformers[part], source, scale, call))
            else:
                logger.info("lora=%s at scale %g", source, scale)
                measured.append(None if scale else 0.0)
        effects.append(measured[0])
    scale_loras(pipeline, sources, scales, parts)
    return effects


def scale_loras(
    pipeline: DiffusionPipeline,
    sources: Sequence[str | Path],
    scales: Sequence[float] = (1.0,),
    parts: Sequence[LoRAPart] = (),
) -> None:
    """Let the LoRAs of `insert_loras` act at their scales, unmeasured; see `act`."""
    from t2v.models.lora_adapters import activate

    each_scale, each_files = spread("lora_scale", scales, len(sources)), lora_files(sources, parts)
    for part in PARTS:
        numbers = [number for number, files in enumerate(each_files) if part in files]
        if numbers:
            transformer = transformer_of(pipeline, part, _what(sources[numbers[0]], part, parts))
            activate(transformer, {adapter_of(number): each_scale[number] for number in numbers})


def _tell_where(pipeline: DiffusionPipeline, source: str | Path) -> None:
    """Warn of a file without a part for a model with two transformers."""
    if getattr(pipeline, "transformer_2", None) is not None:
        logger.warning(
            "lora=%s goes into the transformer of high noise alone; the model has two. Say which "
            "with lora_part=transformer or lora_part=transformer_2 (low noise), or give a file for "
            "each: lora=[HIGH, LOW] lora_part=[transformer, transformer_2].",
            source,
        )


def _what(source: str | Path, part: LoRAPart, parts: Sequence[LoRAPart]) -> str:
    """The setting that asks for a part, for messages."""
    return f"lora_part={part}" if parts else f"lora={source}"


def lora_files(
    sources: Sequence[str | Path], parts: Sequence[LoRAPart] = ()
) -> list[dict[LoRAPart, Path]]:
    """The file of each LoRA, by the transformer that it is for.

    A checkpoint of a training of two transformers has one for each, or for the one that is asked
    for; any other LoRA goes into the one that is asked for, or the first.

    Raises:
        UserError: there is no such file, or another number of parts.
    """
    from t2v.io.files import HIGH, LOW
    from t2v.models.lora_file import WEIGHTS, lora_file

    asked: list[LoRAPart | None] = spread("lora_part", parts or (None,), len(sources))
    found: list[dict[LoRAPart, Path]] = []
    for source, part in zip(sources, asked, strict=True):
        folder = Path(source)
        pair = {
            name: folder / file
            for name, file in zip(PARTS, (HIGH, LOW), strict=True)
            if part in (None, name) and (folder / file).is_file()
        }
        alone = not pair or (folder / WEIGHTS).is_file()
        found.append({part or "transformer": lora_file(source)} if alone else pair)
    return found


def spread(name: str, values: Sequence[Any], count: int) -> list[Any]:
    """One value for each of `count` LoRAs, where one may stand for all.

    Args:
        name: the setting, for the message.

    Raises:
        UserError: another number of values.
    """
    if len(values) not in (1, count):
        given = ", ".join(map(str, values))
        raise UserError(
            f"{name}=[{given}]: {len(values)} values for {count} LoRA files. Give one for all, or "
            "one for each."
        )
    return list(values) * (count if len(values) == 1 else 1)


def adapter_of(number: int) -> str:
    """The name of the adapter of a LoRA by its place among them: lora, lora_2, lora_3, ..."""
    return f"{ADAPTER}_{number + 1}" if number else ADAPTER


def load_lora(
    pipeline: DiffusionPipeline,
    source: str | Path,
    scale: float,
    part: LoRAPart = "transformer",
    fit: LoRAFit = "strict",
) -> float | None:
    """Put one LoRA into `pipeline` and return its effect, see `load_loras`."""
    return load_loras(pipeline, [source], [scale], [part], fit)[0]


def _told_effect(
    transformer: ModelMixin, source: str | Path, scale: float, call: Call | None
) -> float:
    from t2v.models.lora_effect import lora_effect

    effect = lora_effect(transformer, call)
    logger.info(
        "lora=%s at scale %g changes the prediction by %.3g %%", source, scale, 100 * effect
    )
    if not math.isfinite(effect):
        raise UserError(
            f"lora={source}: with it the model predicts NaN or infinite values. Its weights are "
            f"too large for {str(transformer.dtype).removeprefix('torch.')}, or for "
            f"lora_scale={scale:g}: lower the scale, or train it again."
        )
    if not effect:
        raise UserError(
            f"lora={source} changes nothing: the model predicts the same with and without it. "
            "It was saved before it was trained, or its alpha is 0."
        )
    return effect


def put_into(
    kind: type[DiffusionPipeline],
    transformer: ModelMixin,
    given: str | Path | dict[str, Tensor],
    part: LoRAPart,
    adapter: str,
    fit: LoRAFit,
    pipeline: DiffusionPipeline | None,
    **options: Any,
) -> None:
    """Read a LoRA, compare it with a transformer, add it, and tell what of it was taken."""
    from t2v.models.lora_adapters import put_in
    from t2v.models.lora_contents import contents, taken
    from t2v.models.lora_file import READING, read_lora

    tensors, metadata = read_lora(given, **options)
    if any(name.endswith(".alpha") for name in tensors):
        metadata = None  # which would say the same again
    found = contents(tensors, transformer, conversion(kind))
    fitting, words = taken(found, transformer, fit)
    level = logging.INFO if fitting is found else logging.WARNING
    logger.log(level, "LoRA: %s, in the %s", words, part)
    rest = {name: each for name, each in options.items() if name not in READING}
    rest.pop("use_safetensors", None)
    put_in(fitting, transformer, adapter, pipeline, metadata, **rest)


def conversion(kind: type[DiffusionPipeline]) -> Convert:
    """diffusers' own renaming of a family's LoRA files; without one they stay as they are."""
    if issubclass(kind, LoraLoader):
        return kind.renamed_by_diffusers
    return getattr(kind, "lora_state_dict", lambda tensors: tensors)
