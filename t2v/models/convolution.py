"""The 3D convolution of networks that pad time at both ends."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` whose weight also gets its gradient right from clips shorter than the kernel.

    There oneDNN, asked to pad the frames itself, reads memory that nothing wrote (bf16 on a CPU,
    seen with torch 2.13): the gradient is now and then wrong, or not finite.
    """

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.padding, tuple) and self.padding_mode == "zeros"
        time, *space = self.padding
        if not time or x.shape[-3] >= self.kernel_size[0]:
            return super().forward(x)
        x = F.pad(x, (0, 0, 0, 0, time, time))
        sizes = self.stride, (0, *space), self.dilation, self.groups
        return F.conv3d(x, self.weight, self.bias, *sizes)
