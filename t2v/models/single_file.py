"""Transformers in one file, with the names of their authors, of ComfyUI or of diffusers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel
from safetensors import safe_open
from torch import nn

from t2v.errors import UserError, shortened
from t2v.models.folder import read_base
from t2v.models.load import loading, network_classes, refuse_damaged
from t2v.models.transformer import T2VTransformer3DModel

COMFYUI = "model.diffusion_model."
OTHERS = ("vae.", "text_encoder", "first_stage_model.", "cond_stage_model.")  # beside a transformer


def load_single_file(what: str, file: Path, folder: Path, dtype: torch.dtype) -> nn.Module:
    """Load the weights of a file into the transformer that a pipeline folder has.

    Args:
        what: the setting and its value; begins a message.

    Raises:
        UserError: the file is none of that transformer, whole and finite, or diffusers does not
            read single files of its class.
    """
    if read_base(folder) is not None:
        raise UserError(f"{what}: base={folder} refers to a model of its own. Name that one.")
    kind = network_classes(what, folder).get("transformer")
    is_ours = kind is T2VTransformer3DModel
    reader = WanTransformer3DModel if is_ours else kind  # ours has Wan's names
    if reader is None or not hasattr(reader, "from_single_file"):
        name = "it has no transformer" if kind is None else f"a {kind.__name__} is not read so"
        raise UserError(f"{what}: single files do not go into base={folder}: {name}.")
    gguf = _gguf_of(what, file)
    names = _names(what, file, gguf)
    own = [name for name in names if name.startswith(COMFYUI)]
    own = own or [name for name in names if not name.startswith(OTHERS)]
    about: dict[str, Any] = {"config": str(folder), "subfolder": "transformer"}
    about |= {} if gguf is None else gguf.reading(dtype)
    try:
        network = reader.from_single_file(str(file), local_files_only=True, **about)
        if gguf is not None:
            gguf.unpack_others(network, dtype)
    except Exception as error:  # whatever its loader makes of other names and shapes
        reason = shortened(str(error).partition(" If you want")[0] or repr(error), 300)
        raise UserError(
            f"{what}: does not go into the transformer of base={folder} ({reason}). Give the "
            "folder of the model that the file is of, or download the file again."
        ) from error
    state = network.state_dict()
    missing = [name for name, tensor in state.items() if tensor.is_meta]
    if missing or len(own) != len(state):  # diffusers only warns of tensors too many
        raise UserError(
            f"{what}: holds {len(own)} tensors, and the transformer of base={folder} has "
            f"{len(state)}. Give the folder of the model that the file is of."
        )
    if is_ours:
        with loading(what):
            config = T2VTransformer3DModel.load_config(folder, subfolder="transformer")
            with init_empty_weights(include_buffers=False):
                ours = T2VTransformer3DModel.from_config(config)
            if gguf is not None:
                gguf.move_layers(network, ours)
            ours.load_state_dict(network.state_dict(), assign=True)
            network = ours.eval()
    whole = set(network._keep_in_fp32_modules or ())  # as `from_pretrained` has it
    for name, weight in network.named_parameters():
        if gguf is None or not gguf.is_in_blocks(weight):
            weight.data = weight.data.to(torch.float32 if whole & set(name.split(".")) else dtype)
    refuse_damaged(what, network)
    return network


def _gguf_of(what: str, file: Path) -> Any:
    """The module that reads GGUF, if the file is one.

    Raises:
        UserError: the package for it is not there.
    """
    if file.suffix != ".gguf":
        return None
    if find_spec("gguf") is None:
        raise UserError(
            f'{what}: needs gguf, which is not installed: pip install "t2v[quantize]". A '
            ".safetensors file needs no other package."
        )
    from t2v.models import gguf_file  # which needs that package

    return gguf_file


def _names(what: str, file: Path, gguf: Any) -> list[str]:
    """The names of a file's tensors.

    Raises:
        UserError: it is damaged, or no such file.
    """
    try:
        if gguf is not None:
            return list(gguf.names(file))
        with safe_open(file, framework="pt") as weights:
            return list(weights.keys())
    except Exception as error:  # each reader has its own
        raise UserError(
            f"{what}: is damaged or not whole ({shortened(str(error), 300)}). Download it again."
        ) from error
