"""Strided 1x1 convolutions of few channels, whose gradient oneDNN gets wrong on a CPU.

oneDNN, which torch computes convolutions with, copies the pixels that such a convolution takes to a buffer
before it sums up the gradient of the weights. In channels-last memory, and with fewer input channels than a
vector of the processor holds (16 with AVX-512, 8 with AVX2), it writes beyond that buffer: the process
crashes, or the gradient is wrong without any error. Versions 3.12 (torch 2.14) and 3.13 (torch 2.15) do so:
https://github.com/uxlfoundation/oneDNN/issues/6035. `light` with narrow stages has such layers, and timm's
RepVGG, MobileOne and FastViT begin with one, on the image itself.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAFE_CHANNELS = 16
"""From this number of input channels on, the gradient is right with every instruction set."""


class PixelsFirst(nn.Conv2d):
    """A 1x1 convolution without padding that takes every `stride`-th pixel, then convolves with stride 1.

    It does so only on a CPU and where the gradient of the weights is recorded; the output and the gradients
    are the same. Other devices, inference and exported graphs keep the stride in the convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (x.is_cpu and torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(x)
        down, across = self.stride
        return F.conv2d(x[..., ::down, ::across], self.weight, self.bias)


def take_pixels_first(network: nn.Module) -> None:
    """Turn such convolutions of the network into PixelsFirst, in place; parameters keep their names."""
    for module in network.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == (1, 1)
            and module.stride != (1, 1)
            and module.padding in ((0, 0), "valid")
            and module.groups == 1
            and module.in_channels < SAFE_CHANNELS
        ):
            module.__class__ = PixelsFirst
