"""The weight average."""

import torch
from torch import nn

from t2v.training.engine.ema import EMA


def test_the_average_follows_its_formula_and_lets_the_weights_back():
    model = nn.Linear(3, 2)
    ema = EMA(model, decay=0.5)
    expected = model.weight.detach().clone()
    for step in range(4):
        with torch.no_grad():
            model.weight.add_(1.0)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = torch.lerp(expected, model.weight.detach(), 1 - decay)
    assert torch.equal(ema.tensors()["weight"], expected)
    own, place = model.weight.detach().clone(), model.weight.data_ptr()
    with ema.applied():
        assert torch.equal(model.weight, expected)
    assert torch.equal(model.weight, own)
    assert model.weight.data_ptr() == place


def test_a_loaded_average_equals_the_saved_one():
    model = nn.Linear(3, 2)
    ema, other = EMA(model, 0.9), EMA(nn.Linear(3, 2), 0.9)
    other.load_tensors(ema.tensors())
    assert torch.equal(other.tensors()["bias"], ema.tensors()["bias"])
