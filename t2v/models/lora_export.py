"""LoRA files under the names of another tool: diffusers' and ComfyUI's, of models like Wan."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2v.errors import UserError
from t2v.io.files import complete
from t2v.models.lora_contents import DOWN, ENDS, LORA_BIAS, UP, Parts, plain_lora
from t2v.models.lora_file import lora_file, read_lora, sort_metadata
from t2v.models.lora_names import PREFIXES, UNREADABLE, dotted, some

LoRANames = Literal["comfyui", "diffusers"]

# a layer's name in diffusers and in Wan, which ComfyUI uses; in this order
WAN = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q", ".q"),
    (".to_k", ".k"),
    (".to_v", ".v"),
    (".to_out.0", ".o"),
    (".add_k_proj", ".k_img"),
    (".add_v_proj", ".v_img"),
    (".ffn.net.0.proj", ".ffn.0"),
    (".ffn.net.2", ".ffn.2"),
    ("proj_out", "head.head"),
)
SETTINGS = "lora_adapter_metadata"  # where diffusers keeps rank and alpha
# where they wait for the way back: diffusers would multiply the alphas in a second time
KEPT = f"t2v_{SETTINGS}"
# how the layers of Wan, and of models built like it, begin in diffusers
OF_WAN = ("blocks.", "vace_blocks.", "condition_embedder.", "patch_embedding", "proj_out")
PLAIN = {*DOWN, *UP, LORA_BIAS, "diff_b", "alpha"}


def rename_lora(source: str | Path, target: str | Path, names: LoRANames) -> None:
    """Write a plain LoRA of a model like Wan under other names; there and back is equal to the bit.

    Args:
        source: the file, or a folder with `pytorch_lora_weights.safetensors`.
        target: file to write.
        names: "comfyui" for `diffusion_model.blocks.0.self_attn.q.lora_A.weight` and alphas,
            "diffusers" for `transformer.blocks.0.attn1.to_q.lora_A.weight`.

    Raises:
        UserError: it is no such LoRA, a layer has no such name, or the target exists.
    """
    path, target = lora_file(source), Path(target)
    if target.suffix != ".safetensors":
        raise UserError(f"dst={target}: give a name that ends in .safetensors.")
    if target.exists():
        raise UserError(f"dst={target} already exists. Remove it or give another name.")
    tensors, _ = read_lora(path)
    about = _metadata(path)
    layers: dict[str, Parts] = defaultdict(dict)
    for name, tensor in tensors.items():
        end = next((end for end in ENDS if name.endswith(f".{end}")), "")
        layers[name.removesuffix(f".{end}")][end] = tensor
    if odd := [name for name, parts in layers.items() if not parts.keys() <= PLAIN]:
        raise UserError(
            f"src={source}: {len(odd)} of its {len(layers)} layers ({some(odd)}) hold other things "
            "than a plain LoRA, and only that is renamed."
        )
    renamed = (_for_comfyui if names == "comfyui" else _for_diffusers)(layers, about)
    with complete(target) as partial:
        save_file({name: each.contiguous() for name, each in renamed.items()}, partial, about)
        sort_metadata(partial)


def _for_comfyui(layers: dict[str, Parts], about: dict[str, str]) -> dict[str, Tensor]:
    settings = json.loads(about.pop(SETTINGS, "{}"))
    if settings:
        about[KEPT] = json.dumps(settings, indent=2, sort_keys=True)
    alpha = _alpha(settings)
    found: dict[str, Tensor] = {}
    for name, parts in layers.items():
        layer = _own_name(name)
        theirs = layer
        for ours, wan in WAN:
            theirs = theirs.replace(ours, wan)
        if _of_wan(theirs) != layer:
            raise UserError(f"{name}: a layer that Wan has not, so ComfyUI has no name for it.")
        place = f"diffusion_model.{theirs}"
        found |= {f"{place}.{end}": tensor for end, tensor in parts.items()}
        if alpha is not None and "alpha" not in parts:
            found[f"{place}.alpha"] = torch.tensor(alpha)
    return found


def _for_diffusers(layers: dict[str, Parts], about: dict[str, str]) -> dict[str, Tensor]:
    settings = about.pop(KEPT, None)
    if settings is not None:
        about[SETTINGS] = settings
    found: dict[str, Tensor] = {}
    for name, parts in layers.items():
        if settings is not None:  # which say the alpha
            parts = {end: tensor for end, tensor in parts.items() if end != "alpha"}
        layer = f"transformer.{_own_name(name)}"
        found |= {f"{layer}.{end}": tensor for end, tensor in plain_lora(parts)[0].items()}
    return found


def _own_name(name: str) -> str:
    """A layer's name in diffusers, of any that a file has for it."""
    name = dotted(name)
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return _of_wan(name)


def _of_wan(name: str) -> str:
    """A layer's name in diffusers, of Wan's or of diffusers' own."""
    try:
        (found,) = convert_wan_transformer_to_diffusers({f"{name}.weight": torch.zeros(1)})
    except UNREADABLE as error:
        raise UserError(f"{name}: diffusers knows no such layer of Wan.") from error
    if not found.startswith(OF_WAN):
        raise UserError(
            f"{name}: a layer that Wan has not, and LoRAs of models like Wan alone are renamed. "
            "Use the file as it is."
        )
    return found.removesuffix(".weight")


def _alpha(settings: dict[str, Any]) -> float | None:
    """The alpha of every layer by the settings in a file of diffusers; None: the rank of each."""
    own = {name.removeprefix("transformer."): value for name, value in settings.items()}
    odd = [
        name
        for name in ("alpha_pattern", "rank_pattern", "use_rslora", "use_dora")
        if own.get(name)
    ]
    if odd:
        raise UserError(
            f"The LoRA's settings say {', '.join(odd)}, for which ComfyUI's file has no place. "
            "Merge it into the model instead."
        )
    return None if "lora_alpha" not in own else float(own["lora_alpha"])


def _metadata(path: Path) -> dict[str, str]:
    """The texts beside the tensors of a safetensors file; none of another file."""
    if path.suffix != ".safetensors":
        return {"format": "pt"}
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {"format": "pt"}
