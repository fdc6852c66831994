"""Checkpoints of an adapter: what was learned, and a reference to the model it was learned on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from t2v.config.text import TextEncoderConfig
from t2v.io.addresses import shown
from t2v.io.files import (
    ADAPTER,
    DELTA,
    EMBEDDED_MODELS,
    LORA,
    LORAS,
    REFERENCE,
    TEXT_ADAPTER,
    TOKENS,
    WORDS,
)
from t2v.models.folder import (
    Base,
    base_folder,
    by_package,
    read_base,
    read_index,
)
from t2v.models.learned import (
    TEXT_ENCODER,
    denoisers,
    learned_in,
    save_adapter,
    save_delta,
    save_tokens,
    save_words,
)
from t2v.models.load import load_network, network_classes
from t2v.models.lora_file import WEIGHTS, sort_metadata
from t2v.models.transformer import T2VTransformer3DModel
from t2v.pipelines.t2v import T2VPipeline

INDEX = "model_index.json"
SMALL = ("tokenizer", "scheduler", "image_processor")


def save_learned(
    folder: Path,
    pipeline: T2VPipeline,
    base: Base,
    place: Path,
    words: nn.Embedding | None,
    *,
    is_lora: bool,
    has_tokens: bool,
) -> None:
    """Write a pipeline folder whose weights are those of its base model but for what was learned.

    Args:
        folder: where it goes.
        pipeline: the adapter in its transformer; it may lack the text encoder.
        base: what the folder refers to.
        place: the folder of the base model.
        words: the embeddings of the text encoder, if new words or a soft prompt were learned.
        is_lora: write the adapter as a LoRA, which other packages read too.
        has_tokens: tokens beside the text were learned.
    """
    pipeline.save_config(folder)
    parts = [each for each in network_classes(f"model={place}", place) if each != "upscaler"]
    for name in parts:
        (folder / name).mkdir()
        shutil.copyfile(place / name / "config.json", folder / name / "config.json")
    _complete_index(folder, place, parts)
    for name, transformer in denoisers(pipeline).items():
        transformer.save_config(folder / name)
    for name in SMALL:
        if (part := getattr(pipeline, name, None)) is not None:
            part.save_pretrained(folder / name)
    if words is not None:
        added = pipeline.tokenizer.get_added_vocab().values()
        ids = sorted(each for each in added if each < words.num_embeddings)
        save_words(words, ids, folder / WORDS)
    if has_tokens:
        save_tokens(pipeline.transformer, folder / TOKENS)
    if hasattr(pipeline.text_encoder, "peft_config"):
        save_adapter(pipeline.text_encoder, folder / TEXT_ADAPTER)
    adapted = {n: each for n, each in denoisers(pipeline).items() if hasattr(each, "peft_config")}
    for name, transformer in adapted.items():
        if is_lora:
            file = LORAS[name][-1] if len(denoisers(pipeline)) > 1 else LORA
            save_lora(transformer, folder, file)
        else:
            save_adapter(transformer, folder / ADAPTER)
    (folder / REFERENCE).write_text(json.dumps(asdict(base), indent=1) + "\n")


def save_text_encoder(folder: Path, pipeline: T2VPipeline, config: TextEncoderConfig) -> None:
    """Write the text encoder of a pipeline whole into a folder of `save_learned`, where that of the
    base model does not do: it is read otherwise."""
    if not config.changes():
        return
    encoder = pipeline.text_encoder
    encoder.save_pretrained(folder / TEXT_ENCODER)
    package = type(encoder).__module__.partition(".")[0]
    index = read_index(folder) | {TEXT_ENCODER: [package, type(encoder).__name__]}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def save_student(folder: Path, pipeline: T2VPipeline, base: Base, place: Path) -> None:
    """Write a pipeline folder whose transformer is its teacher's with a change, in 8 bits.

    Args:
        folder, base, place: as in `save_learned`, of the teacher.
        pipeline: of the student.
    """
    what = f"model={place}"
    pipeline.save_config(folder)
    for name in network_classes(f"model={folder}", folder):
        (folder / name).mkdir()
        shutil.copyfile(place / name / "config.json", folder / name / "config.json")
    pipeline.transformer.save_config(folder / "transformer")
    for name in SMALL:
        if (part := getattr(pipeline, name, None)) is not None:
            part.save_pretrained(folder / name)
    teacher = load_network(what, T2VTransformer3DModel, place, "transformer")
    save_delta(pipeline.transformer, teacher, folder / DELTA)
    (folder / REFERENCE).write_text(json.dumps(asdict(base), indent=1) + "\n")


def make_whole(folder: Path) -> None:
    """Give a folder that refers to a base model all weights of its own, in place.

    What nothing was learned in is copied. A LoRA stays in the folder too.

    Raises:
        UserError: see `base_folder` and `load_network`.
    """
    base = read_base(folder)
    assert base is not None
    place, what = base_folder(folder, base), f"model={folder}"
    for name, kind in network_classes(what, folder).items():
        if any((folder / name).glob("*.safetensors")):
            continue  # a text encoder that is read otherwise has its own
        if learned_in(folder, name):
            load_network(what, kind, folder, name).save_pretrained(folder / name)
        else:
            _copy_part(place, name, kind, folder)
    (folder / REFERENCE).unlink()
    for name in (WORDS, DELTA, TOKENS):
        (folder / name).unlink(missing_ok=True)
    for name in (ADAPTER, TEXT_ADAPTER):
        shutil.rmtree(folder / name, ignore_errors=True)


def save_lora(transformer: T2VTransformer3DModel, folder: Path, file: str = WEIGHTS) -> None:
    """Write the LoRA of a transformer as diffusers' `load_lora_weights` reads it.

    Equal adapters give equal bytes.
    """
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict

    metadata = _collate_lora_metadata({"transformer": transformer})  # rank and alpha
    settings = metadata["transformer_lora_adapter_metadata"]
    for name, value in settings.items():
        if isinstance(value, set):  # in an order of chance
            settings[name] = sorted(value)
    layers = get_peft_model_state_dict(transformer)
    T2VPipeline.save_lora_weights(
        folder, transformer_lora_layers=layers, weight_name=file, **metadata
    )
    sort_metadata(folder / file)


def reference(model: str, weights: str, share: float) -> Base:
    """The reference of a checkpoint to a model, folders by their whole path."""
    is_folder = Path(model).is_dir() and model not in EMBEDDED_MODELS
    return Base(shown(Path(model).absolute()) if is_folder else model, weights, share)


def add_part(folder: Path, place: Path, part: str) -> None:
    """Copy a part of the base model in `place` into a pipeline folder that was saved without it."""
    _copy_part(place, part, network_classes(f"model={place}", place)[part], folder)
    _complete_index(folder, place, [part])


def _copy_part(place: Path, part: str, kind: Any, folder: Path) -> None:
    if read_base(place) is None:
        shutil.copytree(place / part, folder / part, dirs_exist_ok=True)
    else:
        load_network(f"model={place}", kind, place, part).save_pretrained(folder / part)


def _complete_index(folder: Path, place: Path, parts: Sequence[str]) -> None:
    """Name the classes of parts that the pipeline was saved without, as the base model does."""
    index, whole = (read_index(each) for each in (folder, place))
    index |= {name: by_package(whole[name]) for name in parts if name in index}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
