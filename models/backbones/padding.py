"""Room at the right and the bottom, for networks that take only multiples of their coarsest stride."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Return images (N, 3, H, W) with zeros, the mean colour, to the right and below up to the next multiple.

    Nothing moves, so cell i of the features stays over the pixels that it had. A network that would round an
    odd size down (ConvNeXt, ViT), or trip over it (HRNet), so rounds it up like a ResNet.
    """
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images
