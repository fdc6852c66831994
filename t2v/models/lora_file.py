"""LoRA files: found, and read or refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from diffusers.loaders.lora_base import _fetch_state_dict
from safetensors import SafetensorError
from torch import Tensor

from t2v.errors import UserError
from t2v.models.finite import is_finite
from t2v.models.lora_names import ALPHA, UNREADABLE

WEIGHTS = "pytorch_lora_weights.safetensors"  # what diffusers names the file in a folder
# the options of diffusers that `_fetch_state_dict` takes
READING = {
    "weight_name": None,
    "local_files_only": None,
    "cache_dir": None,
    "force_download": False,
    "proxies": None,
    "token": None,
    "revision": None,
    "subfolder": None,
}
AGENT = {"file_type": "attn_procs_weights", "framework": "pytorch"}


def require_peft() -> None:
    """Raise `UserError` where peft is not installed."""
    if find_spec("peft") is None:
        raise UserError('LoRA needs peft, which is not installed: pip install "t2v[train]".')


def read_lora(
    source: str | Path | dict[str, Tensor], **options: Any
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The tensors of a LoRA file under the names they have in it, and the settings stored in it.

    Args:
        source: a file, a folder or a hub id, or the tensors themselves.
        options: as diffusers' `load_lora_weights` takes them.

    Raises:
        UserError: it cannot be read, or does not hold tensors of finite floating-point numbers.
    """
    safe = options.get("use_safetensors")
    reading = {name: options.get(name, default) for name, default in READING.items()}
    try:
        tensors, metadata = _fetch_state_dict(
            source,
            use_safetensors=safe is not False,
            allow_pickle=safe is None,
            user_agent=AGENT,
            **reading,
        )
    except (*UNREADABLE, UnpicklingError, SafetensorError, EOFError) as error:
        raise UserError(
            f"The LoRA cannot be read: {str(error)[:200].rstrip('. ')}. It is no LoRA, damaged or "
            "not whole: name a .safetensors file of one, or download it again."
        ) from error
    if not isinstance(tensors, dict) or not all(map(_is_tensor, tensors.items())):
        raise UserError("The file holds other things than named tensors, so it is not a LoRA.")
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or name.endswith(ALPHA)):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"The LoRA's tensor {name} holds {kind}, not floating-point numbers.")
        if not is_finite(tensor):
            raise UserError(
                f"The LoRA's tensor {name} holds NaN or infinite values: its training failed or "
                "the file is damaged. Use an earlier checkpoint, or download it again."
            )
    return tensors, metadata


def _is_tensor(entry: tuple[Any, Any]) -> bool:
    name, value = entry
    return isinstance(name, str) and isinstance(value, Tensor)


def sort_metadata(path: Path) -> None:
    """Write the metadata of a safetensors file in the order of its names, in place.

    safetensors writes it in random order, so equal files would have different hashes.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(content) <= length, "JSON as safetensors writes it, in another order"
        file.seek(8)
        file.write(content.ljust(length))


def lora_file(source: str | Path) -> Path:
    """The file of a LoRA that is named by itself or by its folder.

    Raises:
        UserError: there is no such file.
    """
    path = Path(source)
    for each in (path, path / WEIGHTS):
        if each.is_file():
            return each
    raise UserError(f"lora={source}: there is no such file, and no folder with {WEIGHTS}.")
