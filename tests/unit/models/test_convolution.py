"""The convolution of clips shorter than its kernel, and its gradients, are those of fp32."""

import pytest
import torch
from torch.nn import functional as F

from t2v.models.convolution import Conv3d


def soil_memory():
    """Leave numbers that are none in memory, which is given out again as it is."""
    [torch.full((size,), torch.nan) for size in (100, 1000, 10_000, 100_000, 1_000_000) * 4]


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [3, 5])
def test_gradients_in_half_precision_are_those_of_single_precision(frames, stride, taps):
    kernel, padding = (taps, 3, 3), (taps // 2, 1, 1)
    layer = Conv3d(16, 4, kernel, stride, padding)
    video = torch.randn(2, 16, frames, 8, 8)
    expected = F.conv3d(video, layer.weight, layer.bias, layer.stride, padding)
    torch.testing.assert_close(layer(video), expected, atol=1e-5, rtol=1e-5)
    wanted = torch.autograd.grad(expected.square().mean(), layer.weight)[0]
    for _ in range(5):
        soil_memory()
        with torch.autocast("cpu", torch.bfloat16):
            made = layer(video)
        found = torch.autograd.grad(made.float().square().mean(), layer.weight)[0]
        assert (found - wanted).abs().max() <= 0.03 * wanted.abs().max()
