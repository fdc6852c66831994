"""Safetensors files of more tensors than memory holds: written and read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

NAMES = {  # of the format, largest numbers first as its own writer orders them
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
ALIGNMENT = 8  # bytes; of the first tensor


class Shape(NamedTuple):
    """All that a file's header says of a tensor but its place."""

    dtype: torch.dtype
    sizes: tuple[int, ...]

    def bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.sizes).numel()


class TensorWriter:
    """The form of a file that is filled tensor by tensor, in the order of `names`.

    The bytes are those of `safetensors.torch.save_file`.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        order = [*NAMES]
        self.names = sorted(shapes, key=lambda name: (order.index(shapes[name].dtype), name))
        header, offset = dict[str, Any](), 0
        for name in self.names:
            dtype, sizes = shapes[name]
            end = offset + shapes[name].bytes()
            header[name] = {"dtype": NAMES[dtype], "shape": sizes, "data_offsets": [offset, end]}
            offset = end
        self._shapes = shapes
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        self._header = text + b" " * (-len(text) % ALIGNMENT)

    def write(self, path: Path, tensors: Iterator[Tensor]) -> None:
        """Write the next tensors, which come in the order of `names`.

        Raises:
            OSError: the disk refuses.
        """
        with path.open("wb") as file:
            file.write(len(self._header).to_bytes(8, "little") + self._header)
            for name in self.names:
                tensor = next(tensors).detach()
                assert Shape(tensor.dtype, tuple(tensor.shape)) == self._shapes[name], name
                plain = tensor.cpu().contiguous().flatten()
                file.write(plain.view(torch.uint8).numpy().data)


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, "pt")
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
