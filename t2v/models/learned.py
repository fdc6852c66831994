"""Adapters and new words without the model they were learned on, and their way into that model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.io.files import (
    ADAPTER,
    ADAPTER_FILES,
    DELTA,
    LORAS,
    TEXT_ADAPTER,
    TOKENS,
    WORDS,
)
from t2v.io.text_files import read_json
from t2v.models.context_tokens import context_tokens, take_tokens
from t2v.models.lora_file import require_peft

TRANSFORMER, TEXT_ENCODER = "transformer", "text_encoder"
LARGEST, SMALLEST = 127, 6e-8  # of whole numbers in 8 bits; of scales in half precision
SCALE = ".scale"  # after the name of a weight: of its rows
DENOISERS = TRANSFORMER, "transformer_2"


def denoisers(parts: Any) -> dict[str, Any]:
    """The transformers of a pipeline, or of its parts, by name: one, or two."""
    if not isinstance(parts, Mapping | nn.ModuleDict):
        parts = {name: getattr(parts, name, None) for name in DENOISERS}
    return {name: parts[name] for name in DENOISERS if name in parts and parts[name] is not None}


def learned_in(folder: Path, part: str) -> bool:
    """Return whether the files of a checkpoint change a part of its base model."""
    whole = {TEXT_ENCODER: (WORDS, TEXT_ADAPTER), TRANSFORMER: (ADAPTER, DELTA, TOKENS)}
    is_changed = any((folder / name).exists() for name in whole.get(part, ()))
    return is_changed or _lora_of(folder, part) is not None


def learned_file(folder: Path, part: str) -> Path:
    """The file of a checkpoint, or the folder of its adapter, that changes a part of its base."""
    if part == TEXT_ENCODER:
        return folder / (WORDS if (folder / WORDS).is_file() else TEXT_ADAPTER)
    for name in (DELTA, TOKENS) if part == TRANSFORMER else ():
        if (folder / name).is_file():
            return folder / name
    return folder / (_lora_of(folder, part) or ADAPTER)


def _lora_of(folder: Path, part: str) -> str | None:
    return next((name for name in LORAS.get(part, ()) if (folder / name).is_file()), None)


@torch.no_grad()
def add_learned(network: Any, folder: Path, part: str, share: float) -> None:
    """Put what a checkpoint's folder holds for a part into that part of its base model.

    Args:
        share: of what the adapter changes, from 0 to 1.

    Raises:
        UserError: peft is missing.
    """
    if part == TRANSFORMER:
        _take_known(network, folder / part / "config.json")
    if part in DENOISERS:
        _take_layout(network, folder / part / "config.json")
    if not learned_in(folder, part):
        return
    if part == TEXT_ENCODER and (folder / WORDS).is_file():
        _add_words(network, folder / WORDS)
    if part == TEXT_ENCODER and not (folder / TEXT_ADAPTER).is_dir():
        return
    if part == TRANSFORMER and (folder / DELTA).is_file():
        _add_delta(network, folder / DELTA, share)
        return
    if part == TRANSFORMER and (folder / TOKENS).is_file():
        _add_tokens(network, folder / TOKENS)
        return
    require_peft()
    if part == TEXT_ENCODER:
        _add_adapter(network, folder / TEXT_ADAPTER)
        fuse(network, share)
        _unload(network)
        return
    if (name := _lora_of(folder, part)) is not None:
        network.load_lora_adapter(folder, weight_name=name, use_safetensors=True)
    else:
        _add_adapter(network, folder / ADAPTER)
    fuse(network, share)
    network.unload_lora()


def save_adapter(transformer: Any, folder: Path) -> None:
    """Write the adapter of any kind that a transformer carries, as peft does."""
    from peft import get_peft_model_state_dict

    (config,) = transformer.peft_config.values()
    config.save_pretrained(folder)
    settings = folder / ADAPTER_FILES[0]
    values = json.loads(settings.read_text())
    names = values.get("target_modules")
    values |= {"target_modules": sorted(names)} if isinstance(names, list) else {}  # else by chance
    settings.write_text(json.dumps(values, indent=2, sort_keys=True))
    tensors = {
        name: each.contiguous() for name, each in get_peft_model_state_dict(transformer).items()
    }
    save_file(tensors, folder / ADAPTER_FILES[1])


@torch.no_grad()
def save_delta(network: nn.Module, base: nn.Module, file: Path) -> None:
    """Write what a network's weights have more than those of its base, in about a byte each.

    Matrices are rounded to whole numbers up to 127, by a scale for each row; the rest lies in half
    precision.
    """
    own, kept = dict(base.named_parameters()), dict[str, Tensor]()
    for name, weight in network.named_parameters():
        change = (weight.float().cpu() - own[name].float().cpu()).contiguous()
        if change.ndim < 2:
            kept[name] = change.half()
            continue
        rows = change.flatten(1)
        scale = (rows.abs().amax(1, keepdim=True) / LARGEST).clamp(min=SMALLEST).half()
        kept[name] = (rows / scale.float()).round().to(torch.int8).view_as(change)
        kept[name + SCALE] = scale[:, 0]
    save_file(kept, file)


def save_tokens(transformer: nn.Module, file: Path) -> None:
    """Write the tokens that a transformer learned beside its text."""
    save_file({name: p.detach().cpu() for name, p in context_tokens(transformer).items()}, file)


def save_words(table: nn.Embedding, ids: list[int], file: Path) -> None:
    """Write the rows `ids` of a table of embeddings, and how long it is."""
    rows = torch.tensor(ids)
    kept = {"ids": rows, "rows": table.weight.detach()[rows.to(table.weight.device)].cpu()}
    save_file(kept | {"count": torch.tensor(table.num_embeddings)}, file)


def fuse(transformer: Any, share: float) -> None:
    """Add `share` of what the adapter of a transformer changes into its weights, for good."""
    for layer in _adapted(transformer):
        _fuse_layer(layer, share)


@contextmanager
def fused(transformer: Any, share: float) -> Iterator[None]:
    """Inside, a transformer computes as `fuse` would leave it, to the bit.

    A layer's adapter is added when it is its turn and taken out after it: no more than the matrices
    of one layer are held twice.
    """
    before: dict[nn.Module, dict[str, Tensor]] = {}

    def enter(layer: nn.Module, _: Any) -> None:
        before[layer] = {name: p.detach().clone() for name, p in _own(layer).items()}
        _fuse_layer(layer, share)

    def leave(layer: Any, *_: Any) -> None:
        layer.merged_adapters.clear()  # peft's own way back loses bits, or does not exist
        for name, p in _own(layer).items():
            p.data.copy_(before[layer][name])
        del before[layer]

    hooks = []
    for layer in _adapted(transformer):
        hooks += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adapted(transformer: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]


def _own(layer: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the layer that the adapter is beside."""
    return {n: p for n, p in layer.named_parameters() if n.startswith("base_layer.")}


@torch.no_grad()
def _fuse_layer(layer: Any, share: float) -> None:
    own = _own(layer)
    before = {name: p.detach().clone() for name, p in own.items()} if share != 1 else {}
    layer.merge()
    for name, weight in before.items():
        own[name].data.copy_(weight.lerp(own[name].data, share))


def _take_layout(network: Any, file: Path) -> None:
    """Have the tokens attend as those of the saved model do, whose config is `file`."""
    if not file.is_file() or not hasattr(network, "set_attention"):
        return
    attention = read_json(file).get("attention", "full")
    if attention != network.config.attention:
        network.set_attention(attention)


def _take_known(network: Any, config: Path) -> None:
    """Let a model of text alone take known frames, or learned tokens, where the checkpoint was
    tuned to; or make a student of it."""
    if "conditioning" not in network.config:
        return  # another package's
    saved = read_json(config)
    if saved.get("distilled_steps"):
        network.become_student(saved["distilled_steps"])
        return
    names = {"conditioning": "none", "picture_tokens": False, "references": 0}
    wanted = {name: saved.get(name, usual) for name, usual in names.items()}
    if any(network.config.get(name) != value for name, value in wanted.items()):
        del wanted["conditioning"]  # all that learn it take tokens
        network.take_known(**wanted)
    take_tokens(
        network,
        saved.get("memory_tokens", 0),
        saved.get("prefix_tokens", 0),
        saved.get("frame_tokens", (0, 0, 0)),
    )


def _add_delta(network: nn.Module, file: Path, share: float) -> None:
    change = load_file(file)
    weights = dict(network.named_parameters())
    if missing := sorted(weights.keys() - change.keys()):
        raise UserError(f"{file.name} has no change of {missing[0]}, so it is of another model.")
    for name, weight in weights.items():
        added = change[name].float()
        if (scale := change.get(name + SCALE)) is not None:
            added = (added.flatten(1) * scale.float()[:, None]).view_as(weight)
        weight += share * added.to(weight)


def _add_tokens(network: Any, file: Path) -> None:
    tensors, own = load_file(file), context_tokens(network)
    shapes = ({name: x.shape for name, x in each.items()} for each in (tensors, own))
    if next(shapes) != next(shapes):
        raise UserError(
            f"{file.name} has {len(tensors)} groups of tokens, and the model as its config.json "
            f"says has {len(own)}, or of other sizes."
        )
    for name, tokens in own.items():
        tokens.copy_(tensors[name])


def _unload(network: Any) -> None:
    """Take the layers of a merged adapter out of a network of transformers."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    recurse_remove_peft_layers(network)
    network._hf_peft_config_loaded = False
    del network.peft_config


def _add_adapter(network: Any, folder: Path) -> None:
    from peft import PeftConfig, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):  # peft initialises from the global random state
        network.add_adapter(config)
    set_peft_model_state_dict(network, load_file(folder / ADAPTER_FILES[1]), "default")
    network.eval()


def _add_words(network: Any, file: Path) -> None:
    tensors = load_file(file)
    count = int(tensors["count"])
    if count != network.get_input_embeddings().num_embeddings:
        network.resize_token_embeddings(count, mean_resizing=False)
    table = network.get_input_embeddings().weight
    table[tensors["ids"]] = tensors["rows"].to(table)
