"""Weights where the processor wants them."""

import pytest
import torch
from torch import nn

from t2v.cli.commands import COMMANDS
from t2v.config.schema import settings
from t2v.errors import UserError
from t2v.models.device import ALIGNMENT, is_memory_error, pick_device, pick_dtype, ready


def test_unaligned_weights_move_and_keep_their_values():
    layer = nn.Linear(8, 8)
    values = layer.weight.detach().clone()
    memory = torch.empty(8 * 8 + 1)
    layer.weight.data = memory[1:].view(8, 8).copy_(values)
    bias = layer.bias.data_ptr()
    assert layer.weight.data_ptr() % ALIGNMENT
    assert ready(layer) == torch.device("cpu")
    assert layer.weight.data_ptr() % ALIGNMENT == 0
    assert layer.bias.data_ptr() == bias
    assert torch.equal(layer.weight, values) and layer.weight.requires_grad


@pytest.mark.parametrize(
    ("cuda", "mps", "picked"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_cuda_then_mps_then_the_cpu(cuda, mps, picked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "empty", lambda count, device: None)
    assert pick_device("auto").type == picked


@pytest.mark.parametrize("name", ["foo", "cuda:99", "cpu:7", "meta", "", "cpu:x", "x" * 9999])
def test_a_device_that_is_not_here_is_one_message(name):
    with pytest.raises(UserError, match=r"^device=.*not available on this machine") as error:
        pick_device(name)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_picks_its_device_by_itself(command):
    devices = {
        name: default
        for name, (_, default) in settings(COMMANDS[command].schema).items()
        if name.rpartition(".")[2] == "device"
    }
    assert set(devices.values()) <= {"auto"}


def test_auto_is_fp32_on_a_cpu_and_bf16_on_a_gpu():
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("fp16", torch.device("cpu")) == torch.float16
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("could not create a primitive"), True),  # oneDNN's, in a machine that is full
        (RuntimeError("could not create a primitive descriptor for a convolution"), False),
        (ValueError("allocate memory"), False),
    ],
)
def test_the_end_of_the_memory_is_told_from_other_errors(error, is_one):
    assert is_memory_error(error) == is_one
