"""Weights where the processor wants them."""

import torch
from torch import nn

from t2v.models.placement import ALIGNMENT, ready


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
