"""Padding at the right and bottom, for networks whose input must be a multiple of the coarsest stride."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Return images (N, 3, H, W) padded at the right and bottom with zeros (the mean colour) to a multiple.

    Nothing moves, so cell i of the features keeps its pixels. A network that would round odd sizes down
    (ConvNeXt, ViT) or fail on them (HRNet) thus rounds them up like a ResNet.
    """
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images
