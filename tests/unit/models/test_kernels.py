"""CPU kernels: the same numbers up to rounding, and none where torch's own are needed."""

import pytest
import torch
from torch import nn

from t2v.models import kernels
from t2v.models.layers import Linear


@pytest.mark.parametrize("bias", [True, False])
def test_the_onednn_product_agrees_with_torchs(monkeypatch, bias):
    layer, x = Linear(64, 32, bias=bias), torch.randn(2, 5, 64)
    monkeypatch.setattr(kernels, "mkl_is_slow", lambda: True)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), nn.Linear.forward(layer, x), atol=1e-5, rtol=1e-5)


def test_the_product_has_gradients_and_follows_autocast(monkeypatch):
    layer, x = Linear(64, 32), torch.randn(2, 5, 64)
    monkeypatch.setattr(kernels, "mkl_is_slow", lambda: True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.any()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("stride", [1, (1, 2, 2)])
def test_the_convolution_of_one_video_agrees_with_that_of_many(count, stride):
    layer = nn.Conv3d(4, 6, (3, 3, 3), stride=stride, padding=(0, 1, 1))
    x = torch.randn(count, 4, 5, 6, 8)
    with torch.no_grad():
        torch.testing.assert_close(kernels.conv3d(x, layer), layer(x), atol=1e-5, rtol=1e-5)
        assert kernels.conv3d(x.double(), layer.double()).dtype == torch.float64
