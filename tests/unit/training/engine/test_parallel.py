"""Models whose weights lie elsewhere: copies with other values, and blocks that come and go."""

import copy

import torch
from torch import nn

from t2v.training.engine.parallel import replaced, stream
from t2v.training.engine.sharding import blocks


class Block(nn.Linear):
    """A layer that notes where it is sent, and stays."""

    def __init__(self, visits):
        super().__init__(4, 4)
        self.visits = visits

    def to(self, device):
        self.visits.append(str(device))
        return self


class Stack(nn.Module):
    _no_split_modules = ("Block",)

    def __init__(self, visits):
        super().__init__()
        self.blocks = nn.Sequential(Block(visits), Block(visits))

    def forward(self, x):
        return self.blocks(x)


def test_a_model_with_other_values_keeps_its_ties_and_shares_its_buffers():
    model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)])
    model[1].weight = model[0].weight
    model[1].bias.requires_grad_(False)
    values = {name: p.detach() + 1 for name, p in model.named_parameters()}
    other = replaced(model, values)
    assert other[0].weight is other[1].weight
    assert other[0].weight.data_ptr() == values["0.weight"].data_ptr()
    assert not other[1].bias.requires_grad and other[0].bias.requires_grad
    assert other[2].running_mean is model[2].running_mean
    assert torch.equal(other[0].weight, model[0].weight + 1)


def test_blocks_are_on_the_device_one_at_a_time_while_they_compute():
    visits = []
    model = Stack(visits)
    x = torch.ones(1, 4)
    expected = model(x)
    stream(model, torch.device("cuda"))
    assert len(blocks(model)) == 2 and visits == []
    assert torch.equal(model(x), expected)
    assert visits == ["cuda", "cpu"] * 2
    other = copy.deepcopy(model)
    assert torch.equal(other(x), expected)
    assert other.blocks[0].visits == ["cuda", "cpu"] * 4
