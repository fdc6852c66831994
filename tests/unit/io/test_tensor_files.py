"""Safetensors files written and read a tensor at a time."""

import pytest
import torch
from safetensors.torch import save_file

from t2v.io.tensor_files import Shape, TensorFile, TensorWriter

TENSORS = {
    "b.weight": torch.randn(3, 4), "a": torch.randn(5).bfloat16(), "é": torch.randn(()),
    "long": torch.arange(4), "half": torch.randn(2).half(), "bytes": torch.arange(3).byte(),
    "empty": torch.empty(0, 3), "whole": torch.ones(2, dtype=torch.int32),
    "double": torch.ones(2, dtype=torch.float64), "flag": torch.tensor([True]),
}  # fmt: skip


@pytest.mark.parametrize("tensors", [TENSORS, {}])
def test_the_bytes_are_those_of_the_whole_written_at_once(tensors, tmp_path):
    save_file(tensors, tmp_path / "expected")
    shapes = {name: Shape(each.dtype, tuple(each.shape)) for name, each in tensors.items()}
    writer = TensorWriter(shapes)
    writer.write(tmp_path / "found", (tensors[name] for name in writer.names))
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()
    read = TensorFile(tmp_path / "found")
    assert {*read} == {*tensors} and "other" not in read
    assert all(torch.equal(read[name], each) for name, each in tensors.items())
